"""The node MagCache with a calibration: it finds the right one, and is as fast as asked."""

import json
import logging
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from tiny_models import TINY, Tiny, count_blocks, sample, sample_at
from watch import Cached, calibrate, difference, watching, without_residuals

from magcache.curves.calibration import Calibration, CalibrationError
from magcache.decide import Reason
from magcache.decide.by_plan import PlanDecider
from magcache.hosts.comfyui.nodes.calibration import MagCacheCalibration
from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed

WAN = TINY["wan_t2v"]
STEPS = 12


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    return tmp_path / "magcache"


def faster(model: Any, speedup: float = 2.0, calibration: str = "automatic") -> Any:
    return MagCacheTargetSpeed().apply(model, speedup, calibration)[0]


def watched(model: Any, speedup: float = 2.0) -> Cached:
    """The same with a record of its samplings."""
    return watching(faster(model, speedup))


def measure(model: Any, tiny: Tiny = WAN, steps: int = STEPS) -> None:
    calibrate(model, tiny, steps)


@pytest.mark.parametrize("name", TINY)
def test_a_calibrated_model_of_any_family_is_accelerated_by_its_blocks(
    name: str, folder: Path
) -> None:
    tiny = TINY[name]
    model = tiny.build()
    plain = sample(model, tiny, STEPS)
    measure(model, tiny)
    assert len(list(folder.glob("*.json"))) == 1
    fast = watched(model)
    output = sample(fast.model, tiny, STEPS)
    assert fast.run.skipped == STEPS // 2
    with without_residuals():
        worst = difference(sample(fast.model, tiny, STEPS), plain)
    assert 0 < difference(output, plain) < 0.75 * worst  # worst: nothing in place of residuals
    assert torch.equal(sample(model, tiny, STEPS), plain)


def test_one_measurement_serves_other_steps_and_seeds(folder: Path) -> None:
    model = WAN.build()
    fast = watched(model, 1.5)
    measure(model, steps=20)
    for steps in (9, 15, 30):
        sample(fast.model, WAN, steps)
        assert fast.run.skipped == steps - int(steps / 1.5)
    assert len(list(folder.glob("*.json"))) == 1


def test_blocks_run_only_in_computed_evaluations() -> None:
    model = WAN.build()
    fast = watched(model, 3.0)
    measure(model)
    with count_blocks(fast.model, WAN) as counts:
        sample(fast.model, WAN, STEPS)
    assert (counts.computed, counts.skipped) == (5, 7)  # with fewer there is nothing to gain


def test_a_speedup_of_one_is_the_original() -> None:
    model = WAN.build()
    assert faster(model, 1.0) is model


def test_a_sampler_that_evaluates_between_the_steps_skips_too() -> None:
    model = WAN.build()
    fast = watched(model, 2.0)
    measure(model)
    output = sample(fast.model, WAN, STEPS, sampler="dpm_2")
    assert torch.isfinite(output).all()
    assert isinstance(fast.run.decider, PlanDecider)
    assert 0.2 < fast.run.skipped / len(fast.run.evaluations) < 0.8


@pytest.mark.parametrize(
    ("sampler", "mends"),
    [("euler", True), ("euler_ancestral", False), ("heun", False), ("dpmpp_2m", False)],
)
def test_gaps_are_mended_where_the_sampler_is_eulers_method(sampler: str, mends: bool) -> None:
    model = WAN.build()
    fast = watched(model, 1.5)
    measure(model, steps=20)
    output = sample(fast.model, WAN, 20, sampler=sampler)
    assert torch.isfinite(output).all() and fast.run.skipped > 0
    assert (fast.run.mended > 0) is mends


def test_below_nine_steps_everything_is_computed_and_it_says_so() -> None:
    model = WAN.build()
    fast = watched(model)
    measure(model)
    plain = sample(model, WAN, 6)
    assert torch.equal(sample(fast.model, WAN, 6), plain)
    assert Reason.LITTLE_GAIN in {e.reason for e in fast.run.evaluations}
    assert any("little to gain" in w for w in fast.samplings[-1].report().warnings)


@pytest.mark.parametrize("sigmas", [[1.0, 0.0], [0.7], [1.0, 0.6, 0.6, 0.3, 0.3, 0.0], [0.5, 0.2]])
def test_odd_lists_of_noise_levels(sigmas: list[float]) -> None:
    model = WAN.build()
    fast = watched(model)
    measure(model)
    levels = torch.tensor(sigmas)
    assert torch.equal(sample_at(fast.model, WAN, levels), sample_at(model, WAN, levels)), (
        "so few are all computed"
    )


def test_a_list_that_rises_again_is_sampled() -> None:
    model = WAN.build()
    fast = watched(model)
    measure(model)
    falling = [1 - step / 10 for step in range(10)]
    output = sample_at(fast.model, WAN, torch.tensor([*falling, 0.6, 0.4, 0.2, 0.0]))
    assert torch.isfinite(output).all() and fast.run.skipped > 0


def test_the_report_names_the_calibration_and_why() -> None:
    model = WAN.build()
    fast = watched(model)
    measure(model)
    sample(fast.model, WAN, STEPS)
    warnings = " ".join(fast.samplings[-1].report().warnings)
    assert f"same weights, {STEPS} steps" in warnings and "1 of 1 found" in warnings


def test_a_model_goes_by_no_calibration_of_other_weights_but_learns_its_own(folder: Path) -> None:
    measure(WAN.build())
    other = WAN.build()
    with torch.no_grad():
        for weight in other.model.diffusion_model.parameters():
            weight.mul_(1.01)
    fast = watched(other)
    sample(fast.model, WAN, STEPS)
    assert fast.run.skipped == STEPS // 2 and fast.run.label == "forecast"
    assert len(list((folder / "learned").glob("*.json"))) == 1


def test_a_chosen_file_is_used(folder: Path) -> None:
    model = WAN.build()
    plain = sample(model, WAN, STEPS)
    measure(model)
    (path,) = folder.glob("*.json")
    output = sample(faster(model, 2.0, path.name), WAN, STEPS)
    assert 0 < difference(output, plain) < 0.1
    assert MagCacheTargetSpeed.VALIDATE_INPUTS(path.name) is True
    assert "no calibration none.json" in str(MagCacheTargetSpeed.VALIDATE_INPUTS("none.json"))


def test_a_file_without_gram_curves_is_refused_by_name(folder: Path) -> None:
    model = WAN.build()
    measure(model)
    (path,) = folder.glob("*.json")
    data = json.loads(path.read_text())
    del data["checksum"]
    for measured in data["branches"].values():
        del measured["norms"], measured["correlations"]
    path.write_text(json.dumps({**data, "format": 1}))
    with pytest.raises(CalibrationError, match="no Gram curve to plan from"):
        faster(model, 2.0, path.name)
    assert Calibration.load(path).curves


def test_a_broken_file_does_not_stop_the_sampling(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    (folder / "broken.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert torch.isfinite(sample(faster(WAN.build()), WAN, STEPS)).all()
    assert "broken.json" in caplog.text


def test_an_interrupted_measurement_leaves_no_file(folder: Path) -> None:
    measured = MagCacheCalibration().apply(WAN.build(), "auto")[0]

    class Stop(Exception):
        pass

    def callback(step: int, *_: Any) -> None:
        if step == 3:
            raise Stop

    with pytest.raises(Stop):
        sample(measured, WAN, STEPS, callback=callback)
    assert not list(folder.glob("*.json"))
