"""The samples that a calibration takes of each residual, and the figures made of them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from magcache.calibrate.calibrator import Calibrator
from magcache.calibrate.entries import places
from magcache.curves import Calibration, CalibrationError, Measurement


def alike(*channels: float, count: int = 5) -> Tensor:
    """Every token holds these channels: (1, count, channels). Any sample shows them exactly."""
    return torch.tensor(channels, dtype=torch.float32).repeat(1, count, 1)


def measured(*residuals: Tensor, sampled: int = 1000) -> Measurement:
    calibrator = Calibrator(sampled)
    for place, residual in enumerate(residuals):
        calibrator.add("x", ("cond",), 1 - place / 10, (residual,))
    return calibrator.finish()["cond"]


def turning(steps: int, size: tuple[int, ...], outlier: float = 1.0) -> list[Tensor]:
    """Residuals that drift, one channel of which is `outlier` times as large as the others."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.ones(size[-1])
    scales[0] = outlier
    first, second = (torch.randn(size, generator=generator) * scales for _ in range(2))
    angles = [0.15 * step for step in range(steps)]
    return [math.cos(a) * first + (1 + a) * math.sin(a) * second for a in angles]


def test_norms_and_correlations_of_residuals_that_are_known():
    found = measured(alike(3, 4), alike(8, 6), alike(-4, 3))
    assert found.norms == pytest.approx([math.sqrt(12.5), math.sqrt(50), math.sqrt(12.5)])
    assert found.correlations[0] == []
    assert found.correlations[1] == pytest.approx([48 / 50])
    assert found.correlations[2] == pytest.approx([0, -14 / 50])


def test_the_figures_make_a_gram_curve():
    found = measured(alike(3, 4), alike(8, 6))
    gram = Calibration("Toy", {"cond": found}).grams["cond"]
    products = np.array([[25, 48], [48, 100]]) / 2  # a mean over the two channels
    assert gram.between(np.array([1, 0.9])) == pytest.approx(products)


@pytest.mark.parametrize("outlier", [1.0, 50.0])
def test_a_sample_says_what_all_entries_say(outlier):
    residuals = turning(6, (1, 4096, 64), outlier)
    found = measured(*residuals, sampled=1 << 14)
    flat = torch.stack([residual.flatten() for residual in residuals]).double()
    expected = torch.corrcoef(flat).numpy()  # their means are nearly 0
    norms = flat.square().mean(1).sqrt()
    assert np.array(found.norms) / found.norms[0] == pytest.approx(norms / norms[0], rel=0.02)
    assert found.matrix() == pytest.approx(expected, abs=0.02)


def test_four_times_the_sample_hardly_changes_the_figures():
    residuals = turning(6, (1, 4096, 64))
    small, large = (measured(*residuals, sampled=count) for count in (1 << 14, 1 << 16))
    assert small.matrix() == pytest.approx(large.matrix(), abs=0.015)


def test_every_channel_is_drawn_equally_often():
    (drawn,) = places((torch.zeros(2, 300, 7),), 700)
    counts = torch.bincount(drawn % 7)
    assert counts.tolist() == [100] * 7
    assert drawn.max() < 2 * 300 * 7


def test_tokens_are_drawn_at_random_all_over():
    (drawn,) = places((torch.zeros(1, 1000, 4),), 800)
    tokens = drawn // 4
    assert len(tokens.unique()) > 450 and tokens.min() < 20 and tokens.max() > 980


def test_streams_are_drawn_by_their_size():
    text, image = places((torch.zeros(1, 30, 8), torch.zeros(1, 90, 8)), 320)
    assert (len(text), len(image)) == (80, 240)


def test_a_small_residual_is_drawn_no_more_often_than_it_has_entries():
    (drawn,) = places((torch.zeros(1, 3, 2),), 1 << 16)
    assert len(drawn) == 6


def test_places_are_the_same_in_every_run():
    residual = (torch.zeros(1, 50, 4), torch.zeros(1, 9, 4))
    for first, second in zip(places(residual, 40), places(residual, 40), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_entry_that_is_no_number_makes_a_measurement_useless(bad):
    """Also where no sampled entry shows it."""
    broken = torch.ones(2, 5000, 4)
    broken[1, 4321, 2] = bad
    said = r"cond at evaluation 2 \(noise level 0.9\) held NaN or Inf: .* try bfloat16"
    with pytest.raises(CalibrationError, match=said):
        measured(torch.ones(2, 5000, 4), broken, torch.ones(2, 5000, 4), sampled=8)


def test_a_broken_branch_makes_a_measurement_useless():
    calibrator = Calibrator()
    batch = torch.cat([alike(math.nan, 1), alike(1, 2)])
    calibrator.add("both", ("uncond", "cond"), 1.0, (batch,))
    with pytest.raises(CalibrationError, match=r"residual of uncond at evaluation 1 .* NaN"):
        calibrator.finish()


def test_a_residual_of_nothing_makes_a_measurement_useless():
    with pytest.raises(CalibrationError, match=r"at evaluation 2 .* was 0 everywhere"):
        measured(alike(1, 2), alike(0, 0))


def test_a_spoilt_measurement_says_why():
    calibrator = Calibrator()
    calibrator.add("x", ("cond",), 1.0, (alike(1, 2),))
    calibrator.spoil("another cache is on")
    with pytest.raises(CalibrationError, match="another cache is on"):
        calibrator.finish()


def test_of_a_batch_each_branch_has_its_own_figures():
    calibrator = Calibrator()
    for sigma, (uncond, cond) in ((1.0, ((1, 0), (1, 0))), (0.9, ((0, 2), (3, 0)))):
        batch = torch.cat([alike(*uncond), alike(*cond)])
        calibrator.add("both", ("uncond", "cond"), sigma, (batch,))
    found = calibrator.finish()
    assert found["uncond"].correlations[1] == pytest.approx([0])
    assert found["cond"].correlations[1] == pytest.approx([1])
    assert found["cond"].norms[1] == pytest.approx(3 / math.sqrt(2))


def test_a_batch_of_several_images_is_one_branch():
    images = [torch.cat([alike(1, 0), alike(*second)]) for second in ((1, 0), (0, 1))]
    assert measured(*images).correlations[1] == pytest.approx([0.5], abs=0.2)


def test_of_two_streams_each_entry_counts_alike():
    # Three image tokens keep their direction, one text token turns by a right angle.
    calibrator = Calibrator()
    for sigma, text in ((1.0, (1, 0)), (0.9, (0, 1))):
        streams = alike(*text, count=1000), alike(1, 0, count=3000)
        calibrator.add("x", ("cond",), sigma, streams)
    assert calibrator.finish()["cond"].correlations[1] == pytest.approx([0.75])


def test_half_precision_is_measured_in_more():
    found = measured(alike(1, 0).bfloat16(), alike(1, 2**-7).bfloat16())
    assert found.correlations[1] == pytest.approx([1 / math.hypot(1, 2**-7)], abs=2e-7)


def test_samples_are_all_that_is_kept():
    calibrator = Calibrator(sampled=100)
    for place in range(5):
        calibrator.add("x", ("cond",), 1 - place / 10, (torch.ones(1, 5000, 20),))
    calibrator.release()
    (samples,) = calibrator._samples.values()
    assert sum(sample.numel() for sample in samples) == 5 * 100
    assert all(sample.untyped_storage().nbytes() == 400 for sample in samples)
