"""Asking for a speed-up: the first sampling is measured, later ones are accelerated."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler

import magcache
from harness import FAMILIES, distance, reference, sample
from magcache.curves.calibration import Calibration, CalibrationError
from magcache.decide.by_plan import PlanDecider
from magcache.run import Run
from tiny import TINY, Tiny

FLUX, WAN22 = TINY["flux"], TINY["wan2.2_t2v"]
STEPS = 12


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAGCACHE_HOME", str(tmp_path))
    return tmp_path


def files(home: Path) -> list[Path]:
    return list(home.glob("*.json"))


@pytest.mark.parametrize("tiny", FAMILIES)
def test_the_second_sampling_of_any_pipeline_is_accelerated(tiny: Tiny, home: Path) -> None:
    pipe = tiny.build()
    with magcache.apply(pipe, speedup=1.5) as applied:
        first, measured = sample(pipe, tiny, steps=STEPS)
        second, schedule = sample(pipe, tiny, steps=STEPS)
    assert torch.equal(first, reference(tiny, steps=STEPS).latents)
    assert measured == "#" * STEPS and len(files(home)) == 1
    assert "?" not in schedule and 3 <= schedule.count(".") <= 4
    assert 0 < distance(second, first) < 0.5
    assert "same weights, 12 steps" in " ".join(applied.report().warnings)


def test_a_calibration_is_found_by_another_pipeline_of_the_same_model(home: Path) -> None:
    with magcache.apply(first := FLUX.build(), speedup=2):
        sample(first, FLUX, steps=STEPS)
    with magcache.apply(second := FLUX.build(), speedup=2):
        assert sample(second, FLUX, steps=20)[1].count(".") == 10
    assert len(files(home)) == 1


def test_a_given_calibration_is_used_and_none_is_stored(home: Path) -> None:
    pipe = FLUX.build()
    with magcache.apply(pipe, calibrate=True) as applied:
        sample(pipe, FLUX, steps=STEPS)
        calibration = applied.calibration()
    with magcache.apply(pipe, calibration=calibration, error=0.3):
        assert "." in sample(pipe, FLUX, steps=STEPS)[1]
    with magcache.apply(pipe, calibration=calibration, speedup=2):
        assert sample(pipe, FLUX, steps=STEPS)[1].count("#") == 6
    assert not files(home)


def test_two_experts_are_planned_each_for_itself(home: Path, runs: list[Run]) -> None:
    pipe = WAN22.build()
    with magcache.apply(pipe, speedup=1.5) as applied:
        sample(pipe, WAN22, steps=20)
        applied.reset()
        _, schedule = sample(pipe, WAN22, steps=20)
    (path,) = files(home)
    assert Calibration.load(path).switch_at is not None
    high, low = runs[-2:]
    assert "." in schedule
    for run in (high, low):
        assert isinstance(run.decider, PlanDecider)
        assert [e.sigma for e in run.evaluations] == pytest.approx(list(run.decider.course.sigmas))


def test_the_guidance_scale_of_the_call_is_reckoned_with(runs: list[Run]) -> None:
    pipe = FLUX.build()
    with magcache.apply(pipe, speedup=2):
        sample(pipe, FLUX, steps=STEPS)
        sample(pipe, FLUX, steps=STEPS)
        asked = FLUX.inputs(pipe, steps=STEPS)["true_cfg_scale"]
        decider = runs[-1].decider
        assert isinstance(decider, PlanDecider) and decider.guidance == asked != 1


def test_a_second_order_sampler_is_planned_evaluation_by_evaluation() -> None:
    pipe = TINY["wan2.1_t2v"].build()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    with magcache.apply(pipe, speedup=2):
        sample(pipe, TINY["wan2.1_t2v"], steps=STEPS)
        _, schedule = sample(pipe, TINY["wan2.1_t2v"], steps=STEPS)
    evaluations = 2 * STEPS - 1
    assert len(schedule) == evaluations and schedule.count("#") == evaluations // 2


def test_an_interrupted_measurement_is_not_stored(home: Path) -> None:
    pipe = FLUX.build()
    inputs = FLUX.inputs(pipe, steps=STEPS)

    def interrupt(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        pipe._interrupt = step == 3
        return {}

    with magcache.apply(pipe, speedup=2):
        pipe(**inputs, callback_on_step_end=interrupt)
    assert not files(home)


def test_a_full_disk_costs_no_image(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    pipe = FLUX.build()
    with caplog.at_level(logging.WARNING), magcache.apply(pipe, speedup=2):
        latents, _ = sample(pipe, FLUX, steps=STEPS)
    assert torch.equal(latents, reference(FLUX, steps=STEPS).latents)
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speedup": 2, "preset": "flux"}, "a preset has no Gram curve to plan with"),
        ({"speedup": 2, "threshold": 0.1}, "speedup and error take the place of threshold"),
        ({"speedup": 2, "calibrate": True}, "calibrate=True measures a new curve"),
        ({"speedup": 2, "error": 0.1}, "ask for a speedup or for an error"),
        ({"speedup": 20}, "speedup is a factor from 1 to 10, got 20"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Any], message: str) -> None:
    pipe = FLUX.build()
    with pytest.raises(ValueError, match=message):
        magcache.apply(pipe, **settings)
    assert "_diffusers_hook" not in vars(pipe.transformer)


def test_a_hand_written_loop_needs_a_calibration() -> None:
    pipe = FLUX.build()
    with pytest.raises(ValueError, match="a hand-written loop with speedup or error needs"):
        magcache.apply(pipe.transformer, scheduler=pipe.scheduler, speedup=2)


def test_an_old_calibration_cannot_be_planned_with(home: Path) -> None:
    pipe = FLUX.build()
    with magcache.apply(pipe, speedup=2):
        sample(pipe, FLUX, steps=STEPS)
    (path,) = files(home)
    data = json.loads(path.read_text())
    for measured in data["branches"].values():
        del measured["norms"], measured["correlations"]
    path.write_text(json.dumps({**data, "format": 1}))
    with pytest.raises(CalibrationError, match="no Gram curve to plan with"):
        magcache.apply(pipe, calibration=path, speedup=2)
    with magcache.apply(pipe, calibration=path, threshold=9, retention=0.1):
        assert "." in sample(pipe, FLUX, steps=STEPS)[1]
