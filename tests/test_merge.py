"""Merging calibrations: what the average is, and what does not mix."""

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from magcache.calibrate.merge import merge
from magcache.curves import Calibration, CalibrationError, Measurement, join
from magcache.curves.magnitude import shifted_sigmas
from tests.calibrations import IDENTITY, calibration, measurement

EVEN = shifted_sigmas(10)


def of(*branches: Measurement, **changes: Any) -> Calibration:
    names = ("cond", "uncond", "reference")
    return calibration(branches=dict(zip(names, branches, strict=False)), **changes)


def refuse(message: str, *calibrations: Calibration) -> None:
    with pytest.raises(CalibrationError, match=message):
        merge(calibrations)


def test_one_alone_stays_what_it_is():
    only = calibration(steps=10)
    merged = merge([only])
    assert merged.grams["cond"].correlations == pytest.approx(only.grams["cond"].correlations)
    assert merged.branches["cond"].ratios == pytest.approx(only.branches["cond"].ratios)
    assert merged.settings == {**only.settings, "prompts": 1}


def test_equal_ones_stay_what_they_are():
    merged, one = merge([calibration()] * 3).branches["cond"], calibration().branches["cond"]
    for name in ("sigmas", "ratios", "spreads", "cosine_distances", "norms"):
        assert getattr(merged, name) == pytest.approx(getattr(one, name))
    assert merged.matrix() == pytest.approx(one.matrix(), abs=1e-6)


def test_magnitudes_and_ratios_are_averaged_geometrically():
    merged = merge([of(measurement(EVEN, slope=s)) for s in (1.0, 4.0)]).branches["cond"]
    assert merged.norms == pytest.approx([math.exp(2.5 * sigma) for sigma in EVEN])
    assert merged.ratios == pytest.approx([1.0] + [math.exp(-0.25)] * 9)


def test_correlations_spreads_and_distances_are_averaged():
    merged = merge([of(measurement(EVEN, turn=t, spread=t)) for t in (1.0, 2.0)]).branches["cond"]
    assert merged.correlations[1] == pytest.approx([(math.cos(0.1) + math.cos(0.2)) / 2])
    assert merged.spreads == pytest.approx([0.0] + [1.5] * 9)
    assert merged.cosine_distances == pytest.approx([0.0] + [0.15] * 9)


def test_others_are_brought_to_the_noise_levels_of_the_first():
    turn = 1.0
    first = of(measurement(EVEN, turn=turn))
    other = of(measurement(shifted_sigmas(23, 1.5), turn=turn, spread=9.0))
    merged = merge([first, other]).branches["cond"]
    assert merged.sigmas == pytest.approx(list(EVEN))
    assert merged.matrix() == pytest.approx(first.branches["cond"].matrix(), abs=2e-3)
    assert merged.norms == pytest.approx([math.exp(sigma) for sigma in EVEN], rel=2e-3)
    assert merged.spreads == pytest.approx([0.0] + [0.1] * 9)  # steps of another width differ


def test_a_coarse_one_makes_the_merged_one_less_sure():
    fine = of(measurement(shifted_sigmas(40), turn=3.0))
    coarse = of(measurement(shifted_sigmas(5), turn=3.0))
    neighbours = [merge([fine, other]).grams["cond"].correlations for other in (fine, coarse)]
    assert np.diag(neighbours[1], 1).mean() < np.diag(neighbours[0], 1).mean()


def test_evaluations_at_one_noise_level_are_taken_once():
    twice = [sigma for sigma in EVEN for _ in range(2)]  # Heun
    merged = merge([of(measurement(twice)), of(measurement(EVEN))]).branches["cond"]
    assert merged.sigmas == pytest.approx(list(EVEN))
    assert merged.ratios[1:] == pytest.approx([math.exp(-0.1)] * 9)
    assert len(merged.spreads) == len(merged.cosine_distances) == 10


def residuals(count: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, (count, 4), elements=st.floats(-1, 1, width=32))


@given(residuals(10), st.integers(2, 14).flatmap(residuals), st.floats(0.5, 2))
def test_the_merged_matrix_is_one_that_residuals_can_have(first, second, power):
    """It stays positive semidefinite with ones on its diagonal, whatever is merged."""
    made = []
    for vectors, sigmas in ((first, EVEN), (second, np.linspace(1, 0.05, len(second)) ** power)):
        vectors = vectors + 1.5  # none is zero
        lengths = np.linalg.norm(vectors, axis=1)
        unit = vectors / lengths[:, None]
        rows = [row[:p].tolist() for p, row in enumerate(np.clip(unit @ unit.T, -1, 1))]
        own = measurement([float(sigma) for sigma in sigmas])
        made.append(of(replace(own, norms=lengths.tolist(), correlations=rows)))
    matrix = merge(made).grams["cond"].correlations
    assert np.diag(matrix) == pytest.approx(np.ones(10))
    assert np.linalg.eigvalsh(matrix).min() > -1e-5  # seven digits are kept


def test_branches_in_common_are_kept():
    both, one = of(measurement(EVEN), measurement(EVEN)), of(measurement(EVEN))
    assert list(merge([both, one]).branches) == ["cond"]
    assert list(merge([both, both]).branches) == ["cond", "uncond"]


def test_settings_that_all_agree_on_are_kept_and_prompts_are_counted():
    one = calibration(settings={"cfg": 3.0, "host": "A", "prompts": 2})
    other = calibration(steps=20, settings={"cfg": 5.0, "host": "A"})
    merged = merge([one, other])
    assert merged.settings == {
        "steps": 10, "shift": 1.0, "sampler": "euler", "host": "A", "prompts": 3
    }  # fmt: skip


def test_the_merged_one_can_be_merged_again():
    twice = merge([merge([calibration()] * 2), calibration()])
    assert twice.prompts == 3


def test_it_can_be_written_and_read(tmp_path):
    merged = merge([calibration(), calibration(steps=15)])
    assert Calibration.load(merged.save(tmp_path / "merged.json")) == merged


def test_the_identity_stays_where_all_have_it():
    assert merge([calibration()] * 2).identity == IDENTITY


def test_of_two_fine_tunes_the_architecture_stays():
    other = calibration(identity={**IDENTITY, "weights": "cccc"})
    assert merge([calibration(), other]).identity == {**IDENTITY, "weights": None}


def test_where_one_is_of_an_unknown_model_the_merged_one_is_too():
    assert merge([calibration(), calibration(identity=None)]).identity is None


def experts(switch_at: float = 0.55, turn: float = 1.0) -> Calibration:
    high, low = measurement(EVEN[:5], turn=turn), measurement(EVEN[5:], turn=2 * turn)
    branches, _ = join({"cond": high}, {"cond": low})
    return calibration(branches=branches, switch_at=switch_at)


def test_two_experts_are_merged_each_with_its_own():
    merged = merge([experts(turn=1.0), experts(turn=2.0)])
    matrix = merged.branches["cond"].matrix()
    assert (matrix[:5, 5:] == 0).all()
    assert matrix[1, 0] == pytest.approx((math.cos(0.1) + math.cos(0.2)) / 2)
    assert matrix[6, 5] == pytest.approx((math.cos(0.2) + math.cos(0.4)) / 2)
    assert merged.switch_at == 0.55 and merged.branches["cond"].ratios[5] == 1


def test_two_experts_at_other_steps_are_resampled_each_in_its_own_part():
    sigmas = shifted_sigmas(40)
    high = [sigma for sigma in sigmas if sigma > 0.55]
    low = [sigma for sigma in sigmas if sigma < 0.55]
    branches, _ = join({"cond": measurement(high)}, {"cond": measurement(low, turn=2.0)})
    other = calibration(branches=branches, switch_at=0.55)
    matrix = merge([experts(), other]).branches["cond"].matrix()
    assert matrix == pytest.approx(experts().branches["cond"].matrix(), abs=2e-3)


def test_between_two_experts_each_goes_on_by_itself():
    # The other's first expert was last seen at 0.7, this one's at 0.6: no mean with the second.
    high, low = measurement([1.0, 0.9, 0.8, 0.7]), measurement(EVEN[5:])
    branches, _ = join({"cond": high}, {"cond": low})
    other = calibration(branches=branches, switch_at=0.55)
    matrix = merge([experts(), other]).branches["cond"].matrix()
    assert matrix[4, 3] > 0.98


def test_nothing_cannot_be_merged():
    refuse("nothing to merge")


def test_two_models_do_not_mix():
    refuse("A and B cannot be merged: they are of different models, Toy and Wan",
           calibration(name="A"), calibration(name="B", model="Wan"))  # fmt: skip


def test_two_sizes_of_a_model_do_not_mix():
    large = calibration(identity={**IDENTITY, "shapes": "cccc", "parameters": 14_000_000})
    refuse(r"different sizes \(7 and 14,000,000 parameters\)", calibration(), large)


def test_two_experts_and_one_do_not_mix():
    refuse("one of them has two experts", experts(), calibration())
    refuse("one of them has two experts", calibration(), experts())


def test_experts_that_change_elsewhere_do_not_mix():
    refuse("at different noise levels, 0.55 and 0.7", experts(), experts(switch_at=0.7))


def test_without_a_branch_in_common_there_is_nothing_to_merge():
    named = calibration(name="B", branches={"image": measurement(EVEN)})
    refuse("no branch in common: A: cond; B: image", calibration(name="A"), named)


def test_half_a_range_does_not_stand_for_all_of_it():
    half = of(measurement(EVEN[5:]), name="half")
    refuse("half covers noise levels 0.5 to 0.1, but whole 1 to 0.1.*smallest one first",
           calibration(name="whole"), half)  # fmt: skip
    assert merge([half, calibration()]).branches["cond"].sigmas == pytest.approx(list(EVEN[5:]))


def test_one_without_a_gram_curve_is_named():
    old = of(replace(measurement(EVEN), norms=[], correlations=[]), name="old")
    refuse("old has no Gram curve of cond", calibration(), old)
    assert merge([old, old]).branches["cond"].correlations == []


def test_what_is_merged_is_left_as_it_is():
    first, other = calibration(), calibration(steps=15)
    before = asdict(first), asdict(other)
    merge([first, other])
    assert (asdict(first), asdict(other)) == before
