"""What is computed and what is skipped is the rule's, counted in the blocks themselves."""

from __future__ import annotations

import math
from typing import Any

import pytest

import magcache
from harness import EAGER, FAMILIES, PRESETS, own_preset, reference, sample
from magcache.curves import Calibration, presets
from magcache.curves.magnitude import Trajectory
from magcache.decide import Rule, Schedule, Window, rule_of
from magcache.run import Run
from tests.calibrations import ratios_of, steps_of, switch_of
from tests.toys import scheduled
from tiny import TINY, Tiny

FRAMEPACK, WAN22 = TINY["framepack"], TINY["wan2.2_t2v"]


def planned(preset: Calibration, rule: Rule, sigmas: tuple[float, ...], cfg: bool) -> Schedule:
    curves = {b: c for b, c in preset.curves.items() if cfg or b == "cond"}
    return scheduled(rule, curves, Trajectory(sigmas), sigmas)


def replayed(preset: Calibration, steps: int) -> str:
    """The published rule over the raw lists, at their own step count."""
    lists = list(ratios_of(preset).values())
    refresh = None if preset.refresh is None else math.ceil(preset.refresh * steps - 1e-9)
    first = {0, switch_of(preset)[0]} if switch_of(preset) else {0}
    symbols = ""
    product, error, skipped = [1.0] * len(lists), [0.0] * len(lists), 0
    for i in range(steps):
        skip = i >= int(steps * preset.retention) and i not in first and i != refresh
        if skip:
            skipped += 1
            product = [p * ratios[i] for p, ratios in zip(product, lists, strict=True)]
            error = [e + abs(1 - p) for e, p in zip(error, product, strict=True)]
            skip = max(error) <= preset.threshold and skipped <= preset.max_skip
        if not skip:
            product, error, skipped = [1.0] * len(lists), [0.0] * len(lists), 0
        symbols += "." if skip else "#"
    return symbols


@pytest.mark.parametrize("tiny", FAMILIES)
def test_published_settings_at_the_list_s_own_step_count(tiny: Tiny) -> None:
    steps = steps_of(presets.load(PRESETS[tiny.name]))
    preset = own_preset(tiny, reference(tiny, steps=steps, cfg=False).sigmas)
    pipe = tiny.build()
    with magcache.apply(pipe, preset=preset) as applied:
        _, schedule = sample(pipe, tiny, steps=steps)
    assert schedule == replayed(preset, steps)
    assert schedule == applied.report().schedule.replace(" ", "")
    assert "." in schedule[1:]


PUBLISHED: tuple[dict, dict] = ({"steps": 12}, {})
WINDOW = ({"steps": 12}, {"threshold": 0.6, "max_skip": 5, "start_step": 3, "end_step": 8})
CASES = [
    *((tiny, *PUBLISHED) for tiny in TINY.values()),
    *((tiny, {"steps": 11}, EAGER) for tiny in TINY.values()),
    *((TINY[n], {"steps": 11, "cfg": False}, EAGER) for n in ("flux", "qwen_image", "wan2.2_t2v")),
    *((TINY[n], *WINDOW) for n in ("flux", "wan2.1_t2v", "wan2.2_t2v")),
]


@pytest.mark.parametrize(
    ("tiny", "options", "settings"), CASES, ids=[case[0].name for case in CASES]
)
def test_the_plan_at_another_step_count(
    tiny: Tiny, options: dict[str, Any], settings: dict[str, Any]
) -> None:
    preset, rule = presets.load(PRESETS[tiny.name]), {**settings}
    start_step, end_step = rule.pop("start_step", 0), rule.pop("end_step", -1)
    expected = planned(
        preset,
        rule_of(preset, **rule, window=Window(start_step, end_step)),
        reference(tiny, **{**options, "cfg": False}).sigmas,
        options.get("cfg", True),
    )
    pipe = tiny.build()
    with magcache.apply(pipe, preset=preset, **settings) as applied:
        _, schedule = sample(pipe, tiny, **options)
    report = applied.report()
    assert schedule == str(expected) == report.schedule.replace(" ", "")
    assert (report.computed, report.skipped) == (expected.computed, expected.skipped)
    reasons = [e.reason for run in report.runs for e in run.evaluations]
    if tiny is not WAN22:  # its second expert begins for another reason than in the plan
        assert tuple(reasons) == expected.reasons


@pytest.mark.parametrize("cfg", [True, False], ids=["cfg", "no cfg"])
def test_each_expert_has_its_own_part(cfg: bool, runs: list[Run]) -> None:
    pipe = WAN22.build()
    with magcache.apply(pipe, preset="wan2.2_t2v_14B", **EAGER) as applied:
        _, schedule = sample(pipe, WAN22, steps=20, cfg=cfg)
    sigmas = reference(WAN22, steps=20, cfg=False).sigmas
    high = sum(sigma >= 0.875 for sigma in sigmas)
    assert applied.report().schedule == f"{schedule[:high]} {schedule[high:]}"
    assert schedule[0] == schedule[high] == "#"
    assert schedule[:4] == "####" and schedule[high + 1] == "."  # retention is of the whole way
    first, second = (run.decider.curves["cond"] for run in runs)
    assert min(first.positions) >= 0.875 > max(second.positions)


@pytest.mark.parametrize("sampling_type", ["inverted_anti_drifting", "vanilla"])
def test_each_section_is_a_run_of_its_own(sampling_type: str) -> None:
    pipe = FRAMEPACK.build()
    options = {"steps": 10, "sections": 2, "sampling_type": sampling_type}
    with magcache.apply(pipe, preset="framepack", **EAGER) as applied:
        _, schedule = sample(pipe, FRAMEPACK, **options)
    assert schedule[:10] == schedule[10:] == "##...#...#"
    assert applied.report().schedule == "##...#...# ##...#...#"
    assert len(applied.report().runs) == 2


def test_a_preset_follows_the_shift_of_the_scheduler() -> None:
    tiny, preset = TINY["wan2.1_t2v"], presets.load("wan2.1_t2v_14B")
    settings = {"threshold": 0.03, "max_skip": 6}
    schedules = []
    for shift in (3.0, 9.0):
        pipe = tiny.build()
        kind, config = type(pipe.scheduler), pipe.scheduler.config
        pipe.scheduler = kind.from_config(config, flow_shift=shift)
        with magcache.apply(pipe, preset=preset, **settings):
            schedules.append(sample(pipe, tiny, steps=30)[1])
        sigmas = tuple(pipe.scheduler.sigmas[:30].tolist())
        assert schedules[-1] == str(planned(preset, rule_of(preset, **settings), sigmas, cfg=True))
    assert schedules[0] != schedules[1]
