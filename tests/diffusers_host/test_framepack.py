"""FramePack: a video is sampled in sections, each a run of its own at the same noise levels."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import Tensor

import magcache
from harness import EAGER, distance, reference, sample
from magcache.curves import presets
from magcache.hosts.diffusers.clock import SchedulerClock
from magcache.run import Run
from tests.calibrations import ratios_of
from tiny import TINY, run

FRAMEPACK = TINY["framepack"]
NORMAL, F1 = "inverted_anti_drifting", "vanilla"
SETTINGS: dict[str, Any] = {"preset": "framepack", **EAGER}


def at_full_size(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """The pipeline with the noise levels of a video of full size: shift 7, as much as there is."""
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=math.log(7), max_shift=math.log(7)
    )
    return pipe


@cache
def fresh() -> tuple[Tensor, str]:
    """Two sections of the first run on a new pipeline."""
    pipe = FRAMEPACK.build()
    with magcache.apply(pipe, **SETTINGS):
        return sample(pipe, FRAMEPACK, sections=2)


def stopping(section: int, step: int, how: type[Exception] | None) -> Any:
    """A callback that stops the run in a section: with an exception, or as a user does."""
    calls = {"section": -1}

    def stop(pipe: Any, now: int, _: Any, __: Any) -> dict[str, Any]:
        calls["section"] += now == 0
        if (calls["section"], now) == (section, step):
            if how:
                raise how("stopped")
            pipe._interrupt = True
        return {}

    return stop


@pytest.mark.parametrize(
    ("preset", "sampling_type", "threshold", "max_skip", "schedule"),
    [
        ("framepack", NORMAL, 0.10, 3, "#####..#.#..#..#..#...#.#"),
        ("framepack", NORMAL, 0.15, 4, "#####..#..#...#...#....##"),
        ("framepack_f1", F1, 0.10, 3, "#####..#.#..#...#...#.#.#"),
        ("framepack_f1", F1, 0.15, 4, "#####...#....#...#....#.#"),
    ],
)
def test_published_settings_at_25_steps(
    preset: str, sampling_type: str, threshold: float, max_skip: int, schedule: str
) -> None:
    """Replayed from the lists step by step, and run: 12, 11, 12 and 10 are computed.

    Source of the lists and the rule: MagCache4FramePack, whose own code computes as many.
    """
    (ratios,) = ratios_of(presets.load(preset)).values()
    product, error, skipped, replayed = 1.0, 0.0, 0, ""
    for step, ratio in enumerate(ratios):
        product, skipped = product * ratio, skipped + 1
        error += abs(1 - product)
        if step < 5 or error > threshold or skipped > max_skip:  # the first fifth of 25
            product, error, skipped = 1.0, 0.0, 0
        replayed += "." if skipped else "#"
    assert replayed == schedule
    pipe = at_full_size(FRAMEPACK.build())
    with magcache.apply(pipe, preset=preset, threshold=threshold, max_skip=max_skip):
        options = {"steps": 25, "sections": 2, "cfg": False, "sampling_type": sampling_type}
        _, seen = sample(pipe, FRAMEPACK, **options)
    assert seen == schedule + schedule


@pytest.mark.parametrize("sampling_type", [NORMAL, F1])
def test_the_report_counts_each_section(sampling_type: str) -> None:
    pipe = FRAMEPACK.build()
    with magcache.apply(pipe, **SETTINGS) as applied:
        sample(pipe, FRAMEPACK, sections=3, sampling_type=sampling_type)
    report = applied.report()
    assert report.schedule == "##...#...# ##...#...# ##...#...#"
    assert "computed   12 = 4 + 4 + 4 (" in str(report)
    assert [(r["computed"], r["skipped"]) for r in report.figures()["runs"]] == [(4, 6)] * 3


def test_residuals_are_freed_between_sections(runs: list[Run]) -> None:
    pipe = FRAMEPACK.build()
    held: list[int] = []

    def look(*_: Any) -> None:
        held.append(sum(run.cache.bytes_held for run in runs))

    decoding = pipe.vae.decoder.register_forward_pre_hook(look)
    with magcache.apply(pipe, **SETTINGS) as applied:
        inputs = FRAMEPACK.inputs(pipe, sections=3, cfg=False)
        pipe(**inputs | {"output_type": "pt"})
        assert applied.report().skipped == 18 and applied.report().bytes_held > 0
    decoding.remove()
    assert len(held) >= 3 and not any(held)


def test_true_cfg_keeps_its_branches_apart() -> None:
    """What a skipped call adds is what the last computed call of the same branch added."""
    pipe = FRAMEPACK.build()
    base: list[Tensor] = []
    added: list[Tensor] = []
    hooks = [
        pipe.transformer.x_embedder.register_forward_hook(lambda _, __, out: base.append(out)),
        pipe.transformer.norm_out.register_forward_hook(
            lambda _, args, __: added.append(args[0] - base[-1])
        ),
    ]
    with magcache.apply(pipe, **SETTINGS) as applied:
        run(pipe, **FRAMEPACK.inputs(pipe, steps=6))
    for hook in hooks:
        hook.remove()
    assert applied.report().schedule == "#...#." and len(added) == 12
    cond, uncond = added[::2], added[1::2]
    for branch, other in ((cond, uncond), (uncond, cond)):
        for step, kept in ((1, 0), (2, 0), (3, 0), (5, 4)):
            torch.testing.assert_close(branch[step], branch[kept], atol=1e-5, rtol=1e-4)
            assert not torch.allclose(branch[step], other[kept], atol=1e-2)


@pytest.mark.parametrize("how", [None, RuntimeError], ids=["interrupt", "exception"])
@pytest.mark.parametrize("place", [(0, 9), (1, 3)], ids=str)
def test_nothing_is_left_after_stopping(
    place: tuple[int, int], how: type[Exception] | None, runs: list[Run]
) -> None:
    pipe = FRAMEPACK.build()
    with magcache.apply(pipe, **SETTINGS) as applied:
        inputs = FRAMEPACK.inputs(pipe, sections=2)
        with pytest.raises(how, match="stopped") if how else nullcontext():
            pipe(**inputs, callback_on_step_end=stopping(*place, how))
        assert not any(run.cache.bytes_held for run in runs)
        assert not any(expert.run for expert in applied.experts)
        latents, schedule = sample(pipe, FRAMEPACK, sections=2)
    expected, expected_schedule = fresh()
    assert schedule == expected_schedule and torch.equal(latents, expected)
    registry = getattr(pipe.transformer, "_diffusers_hook", None)  # diffusers' own, left empty
    assert registry is None or not registry.hooks
    assert "forward" not in vars(pipe.transformer)


@pytest.mark.parametrize(("sampling_type", "sections"), [(NORMAL, 3), (F1, 2)])
def test_asked_for_a_speedup_every_section_is_accelerated(
    sampling_type: str, sections: int, home: Path
) -> None:
    pipe = FRAMEPACK.build()
    options: dict[str, Any] = {
        "steps": 12, "sections": sections, "sampling_type": sampling_type, "cfg": False
    }  # fmt: skip
    with magcache.apply(pipe, speedup=2) as applied:
        first = run(pipe, **FRAMEPACK.inputs(pipe, **options))
        schedules = applied.report().schedule.split()
    assert len(schedules) == sections and {s.count("#") for s in schedules} == {6}
    assert 0 < distance(first, reference(FRAMEPACK, **options).latents) < 0.2
    (path,) = (home / "learned").glob("*.json")
    assert json.loads(path.read_text())["runs"] == sections


def test_asked_for_an_error_too() -> None:
    pipe = FRAMEPACK.build()
    with magcache.apply(pipe, error=0.2) as applied:
        run(pipe, **FRAMEPACK.inputs(pipe, steps=12, sections=2, cfg=False))
    assert all("." in schedule for schedule in applied.report().schedule.split())


def test_a_calibration_of_sections_serves_both_kinds_of_sampling() -> None:
    pipe = FRAMEPACK.build()
    with magcache.apply(pipe, calibrate=True) as applied:
        _, schedule = sample(pipe, FRAMEPACK, steps=12, sections=2)
        calibration = applied.calibration()
    assert schedule == "#" * 24
    assert all(len(b.sigmas) == 12 for b in calibration.branches.values())
    with magcache.apply(pipe, calibration=calibration, speedup=2):
        _, schedule = sample(pipe, FRAMEPACK, steps=12, sections=2, sampling_type=F1)
    assert schedule.count("#") == 12


def test_a_first_and_a_last_image() -> None:
    pipe = FRAMEPACK.build()
    inputs = FRAMEPACK.inputs(pipe, sections=2, cfg=False)
    inputs["last_image"] = inputs["image"].flip(-1)
    with magcache.apply(pipe, **SETTINGS) as applied:
        assert run(pipe, **inputs).isfinite().all()
    assert applied.report().schedule == "##...#...# ##...#...#"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_loop_that_never_steps_the_scheduler_is_followed(dtype: torch.dtype) -> None:
    """As FramePack's own sampler; at shift 7 the first timesteps are 0.4 % apart."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    scheduler.set_timesteps(sigmas=[1 - step / 35 for step in range(35)])
    timesteps = scheduler.timesteps.to(dtype)
    clock = SchedulerClock(scheduler, timesteps[0])
    for _ in range(2):  # two sections
        ticks = [clock.read(timestep) for timestep in timesteps for _ in range(2)]  # two branches
        assert [tick.index for tick in ticks if tick] == sorted(2 * list(range(35)))


def test_a_long_video_is_reported_whole() -> None:
    """120 seconds are 100 sections."""
    pipe = FRAMEPACK.build()
    with magcache.apply(pipe, preset="framepack", max_skip=0) as applied:
        inputs = FRAMEPACK.inputs(pipe, steps=1, sections=100, cfg=False)
        run(pipe, **inputs)
    assert len(applied.report().runs) == applied.report().evaluations == 100
