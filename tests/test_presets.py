"""Published lists: complete, and giving the published schedules to the step."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import exp
from pathlib import Path

import pytest

from magcache.curves import Calibration, presets
from magcache.curves.magnitude import shifted_sigmas
from magcache.decide import Reason, Rule, Schedule, Window, rule_of
from tests.calibrations import ratios_of, sigmas_of, steps_of, switch_of
from tests.toys import scheduled

NAMES = presets.names()
LENGTHS = {
    "chroma": 26,
    "flux": 28,
    "flux_kontext": 20,
    "flux_kontext_28steps": 28,
    "framepack": 25,
    "framepack_f1": 25,
    "hunyuan_video": 50,
    "hunyuan_video_1.5_20steps": 20,
    "hunyuan_video_1.5_40steps": 40,
    "hunyuan_video_540p": 50,
    "omnigen2_edit": 50,
    "omnigen2_t2i": 50,
    "qwen_image": 40,
    "qwen_image_50steps": 50,
    "qwen_image_edit": 50,
    "wan2.1_i2v_480p_14B": 40,
    "wan2.1_i2v_720p_14B": 40,
    "wan2.1_t2v_1.3B": 50,
    "wan2.1_t2v_14B": 50,
    "wan2.1_vace_1.3B": 50,
    "wan2.1_vace_14B": 50,
    "wan2.2_i2v_14B": 40,
    "wan2.2_t2v_14B": 40,
    "wan2.2_ti2v_5B": 50,
    "wan2.2_ti2v_5B_i2v": 50,
}
# Schedules of the published rule at the lists' own step counts, with the settings of the product
# table of arXiv 2506.09045 (threshold, retention, K), replayed from the published lists.
PUBLISHED = {
    "wan2.1_t2v_1.3B": (0.12, 0.2, 4, "##########....#....#....#....#....#...#..#..#.#.##"),
    "wan2.1_t2v_14B": (0.24, 0.2, 6, "##########......#......#......#.....#....#..#..#.#"),
    "wan2.1_i2v_480p_14B": (0.24, 0.2, 6, "########......#.....#....#....#...#..#.#"),
    "wan2.1_i2v_720p_14B": (0.24, 0.2, 6, "########......#......#.....#....#..#..#."),
    "wan2.1_vace_1.3B": (0.02, 0.2, 3, "##########...#...#...#..#..#..#..#.#.#.#.#########"),
    "hunyuan_video": (0.24, 0.2, 6, "##########....#...#....#.....#....#......#....#.##"),
    "chroma": (0.10, 0.25, 2, "######.#..#..#..#..#..#.#."),
}


def own_rule(preset: Calibration) -> Rule:
    """The published settings, and some where none are published."""
    usual = {"threshold": 0.06, "retention": 0.2, "max_skip": 2}
    return rule_of(preset, **{k: v for k, v in usual.items() if getattr(preset, k) is None})


def own_plan(preset: Calibration) -> Schedule:
    return scheduled(own_rule(preset), preset.curves, preset.trajectory())


def replay(ratios: Mapping[str, Sequence[float]], rule: Rule, fixed: set[int]) -> str:
    """The published rule over the raw lists, one step after another; `fixed` is computed."""
    steps = len(next(iter(ratios.values())))
    product, error, count = dict.fromkeys(ratios, 1.0), dict.fromkeys(ratios, 0.0), 0
    schedule = ""
    for step in range(steps):
        skip = step >= max(1, int(steps * rule.retention)) and step not in fixed
        if skip:
            count += 1
            for branch, values in ratios.items():
                product[branch] *= values[step]
                error[branch] += abs(1 - product[branch])
            skip = count <= rule.max_skip and max(error.values()) <= rule.threshold
        if not skip:
            product, error, count = dict.fromkeys(ratios, 1.0), dict.fromkeys(ratios, 0.0), 0
        schedule += "." if skip else "#"
    return schedule


def test_the_published_lists_are_all_there() -> None:
    assert set(LENGTHS) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_complete(name: str) -> None:
    preset = presets.load(name)
    assert preset.name == name and preset.family and preset.source and preset.settings
    assert steps_of(preset) == LENGTHS.get(name, steps_of(preset))
    for ratios in ratios_of(preset).values():
        assert len(ratios) == steps_of(preset) and ratios[0] == 1.0
    assert sigmas_of(preset) is None or len(sigmas_of(preset)) == steps_of(preset)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_and_schedule(name: str) -> None:
    threshold, retention, max_skip, schedule = PUBLISHED[name]
    preset = presets.load(name)
    assert rule_of(preset) == Rule(threshold, max_skip, retention, in_short_runs=False)
    assert rule_of(preset, max_skip=max_skip) == Rule(threshold, max_skip, retention)
    assert str(own_plan(preset)) == schedule


@pytest.mark.parametrize(
    ("name", "settings"),
    [("flux", (0.24, 0.1, 5)), ("flux_kontext", (0.05, 0.2, 4))],
)
def test_published_settings_of_flux(name: str, settings: tuple[float, float, int]) -> None:
    rule = rule_of(presets.load(name))
    assert (rule.threshold, rule.retention, rule.max_skip) == settings
    assert rule.refresh == 11 / 28


@pytest.mark.parametrize("name", NAMES)
def test_schedule_is_that_of_the_raw_list(name: str) -> None:
    preset = presets.load(name)
    fixed = {switch_of(preset)[0]} if switch_of(preset) else set()
    if preset.refresh:
        # Index 11 of 28; the first step that is as far at other step counts.
        fixed |= {next(i for i in range(steps_of(preset)) if i / steps_of(preset) >= 11 / 28)}
    assert str(own_plan(preset)) == replay(ratios_of(preset), own_rule(preset), fixed)


@pytest.mark.parametrize("name", NAMES)
def test_a_curve_on_its_own_sigmas_is_the_list(name: str) -> None:
    preset = presets.load(name)
    for branch, curve in preset.curves.items():
        found = curve.ratios(sigmas_of(preset) or curve.positions)
        wanted: list[float | None] = list(ratios_of(preset)[branch])
        if switch_of(preset):
            wanted[switch_of(preset)[0]] = None
        assert found == [None if r is None else pytest.approx(r, rel=1e-12) for r in wanted]


def test_flux_computes_index_11_by_its_refresh() -> None:
    schedule = own_plan(presets.load("flux"))
    assert schedule.reasons[11] is Reason.REFRESH
    assert schedule.reasons.count(Reason.REFRESH) == 1


@pytest.mark.parametrize("name", ["wan2.2_t2v_14B", "wan2.2_i2v_14B"])
def test_no_ratio_is_given_across_the_switch(name: str) -> None:
    preset = presets.load(name)
    assert switch_of(preset) and sigmas_of(preset)
    index, sigma = switch_of(preset)
    before, after = sigmas_of(preset)[index - 1 : index + 1]
    assert before >= sigma > after
    for branch, curve in preset.curves.items():
        assert curve.parts == 2
        assert curve.ratio(before, after) is None
        assert curve.ratio(1.0, 0.1) is None
        for i in (index - 1, index + 1):
            ratio = curve.ratio(sigmas_of(preset)[i - 1], sigmas_of(preset)[i])
            assert ratio == pytest.approx(ratios_of(preset)[branch][i])
    assert own_plan(preset).reasons[index] is Reason.NO_RATIO


@pytest.mark.parametrize("name", ["wan2.2_t2v_14B", "wan2.2_i2v_14B"])
def test_a_part_is_one_experts_share_of_the_list(name: str) -> None:
    preset = presets.load(name)
    assert switch_of(preset) and sigmas_of(preset)
    index = switch_of(preset)[0]
    high, low = (preset.curves["cond"].part(i) for i in (0, 1))
    assert high.parts == low.parts == 1
    assert high.positions + low.positions == sigmas_of(preset)
    assert len(high.positions) == index
    listed = ratios_of(preset)["cond"]
    assert high.ratios(high.positions) == pytest.approx([1.0, *listed[1:index]])
    assert low.ratios(low.positions) == pytest.approx([1.0, *listed[index + 1 :]])


def test_each_expert_goes_on_with_its_own_slope_at_the_switch() -> None:
    preset = presets.load("wan2.2_t2v_14B")
    curve = preset.curves["cond"]
    # σ 0.8751 is the first expert's, 0.8749 the second's: 26 listed ratios apart and a jump.
    assert curve.ratio(0.9, 0.8751) == pytest.approx(curve.part(0).ratio(0.9, 0.8751))
    assert curve.ratio(0.8749, 0.8) == pytest.approx(curve.part(1).ratio(0.8749, 0.8))


def test_an_unknown_name_lists_near_ones() -> None:
    with pytest.raises(ValueError, match=r"no preset 'wan2.1_t2v_14b'; .*wan2\.1_t2v_14B"):
        presets.load("wan2.1_t2v_14b")
    with pytest.raises(ValueError, match=r"no preset 'fluxx'; did you mean flux"):
        presets.load("fluxx")


def test_a_name_like_none_lists_all() -> None:
    with pytest.raises(ValueError, match=", ".join(NAMES)):
        presets.load("zzz")


def test_a_name_is_no_path() -> None:
    with pytest.raises(ValueError, match="no preset"):
        presets.load("../presets/flux")


@pytest.mark.parametrize("name", ["omnigen2_edit", "omnigen2_t2i"])
def test_settings_that_nobody_published_have_to_be_given(name: str) -> None:
    preset = presets.load(name)
    with pytest.raises(ValueError, match=f"preset {name} has no .*: set them"):
        rule_of(preset)
    missing = {k: v for k, v in (("retention", 0.3), ("max_skip", 1)) if getattr(preset, k) is None}
    rule = rule_of(preset, **missing)
    assert (rule.retention, rule.max_skip) == (0.3, 1)


def test_given_settings_replace_published_ones_and_none_keeps_them() -> None:
    rule = rule_of(presets.load("flux"), threshold=0.1, max_skip=None, window=Window(end_step=-2))
    assert rule == Rule(0.1, 5, 0.1, Window(end_step=-2), refresh=11 / 28)


def test_trajectory_of_a_list_is_its_own_schedule() -> None:
    flux = presets.load("flux")
    assert flux.trajectory().sigmas == pytest.approx(sigmas_of(flux), abs=1e-12)


def test_trajectory_at_another_step_count_keeps_the_shift() -> None:
    flux = presets.load("flux")
    assert flux.trajectory(14).sigmas == pytest.approx(sigmas_of(flux)[::2], abs=1e-12)  # type: ignore[index]
    wanted = shifted_sigmas(20, exp(1.15))
    assert flux.trajectory(20).sigmas == pytest.approx(wanted, abs=2e-3)


def test_trajectory_with_a_shift_is_evenly_spaced_under_it() -> None:
    # u = 1, 3/4, 2/4, 1/4; 3u / (1 + 2u).
    shifted = (1.0, 0.9, 0.75, 0.5)
    assert presets.load("flux").trajectory(4, shift=3).sigmas == pytest.approx(shifted)
    assert presets.load("omnigen2_t2i").trajectory(4).sigmas == (1.0, 0.75, 0.5, 0.25)


@pytest.mark.parametrize("steps", [0, -1])
def test_a_trajectory_needs_a_step(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps must be 1 or more, got {steps}"):
        presets.load("flux").trajectory(steps)


def test_vace_14b_says_that_it_is_a_copy() -> None:
    copy, original = presets.load("wan2.1_vace_14B"), presets.load("wan2.1_t2v_14B")
    assert ratios_of(copy) == ratios_of(original)
    assert "never calibrated on VACE" in copy.note


@pytest.mark.parametrize("name", [n for n in NAMES if sigmas_of(presets.load(n))])
def test_listed_sigmas_are_those_of_the_stated_schedule(name: str) -> None:
    data = json.loads((Path(presets.__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
    stated, sigmas = data["sigmas_from"], data["sigmas"]
    assert all(a > b for a, b in pairwise(sigmas))
    if stated.startswith("s*u/(1+(s-1)*u)"):
        number = stated.split("s = ")[1].split(":")[0]
        shift = exp(1.15) if number == "exp(1.15)" else float(number)
        assert sigmas == pytest.approx(shifted_sigmas(len(sigmas), shift), abs=1e-6)
