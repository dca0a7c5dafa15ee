"""What a report says of runs whose evaluations and times are given."""

import gc
import json
import weakref
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from magcache.curves import presets
from magcache.curves.magnitude import MagnitudeCurve
from magcache.decide import Reason, Rule, rule_of
from magcache.pictures import canvas, draw_rows, draw_sampling
from magcache.pictures.schedule import colour_of
from magcache.report import Evaluated, Report, figures_of, report_of
from magcache.run import Evaluation, Run, Storage
from tests.toys import CPU, Toy, decider_of, even, flat_curve, scheduled, tokens, toy_run, toy_stack

PERIODIC = "#..#..#..#"
FRACTION = "hunyuan_video_1.5_20steps"  # a list without noise levels


@dataclass
class Took:
    """In place of a stopwatch."""

    seconds: float


def sampled(steps: int = 10, **settings: Any) -> Run:
    """A finished run of the toy model: one evaluation computed, two skipped, and so on."""
    model = Toy()
    run = toy_run(model, steps, **settings)
    with closing(run):
        for step in range(steps):
            run.begin(1 - step / steps, step, last=step == steps - 1)
            run.call("cond", "cond", CPU, lambda: model(tokens()))
    return run


def timed(computed: float, skipped: float, **settings: Any) -> Run:
    """As `sampled`, each evaluation having taken so many seconds."""
    run = sampled(**settings)
    for evaluation in run.evaluations:
        evaluation._watches = [Took(skipped if evaluation.skipped else computed)]  # type: ignore[list-item]
    return run


def with_curve(curve: MagnitudeCurve, steps: int = 10) -> Run:
    """A finished run with a curve of its own."""
    model = Toy()
    run = Run(decider_of(Rule(1, 2, 0), {"cond": curve}, even(steps)), toy_stack(model))
    for step in range(steps):
        run.begin(1 - step / steps, step)
        run.call("cond", "cond", CPU, lambda: model(tokens()))
    return run


def test_the_headline() -> None:
    # Ten evaluations at 1 s would be 10 s; four of them and six of 0.25 s are 5.5 s.
    report = report_of([timed(1.0, 0.25)])
    assert report.headline() == (
        "MagCache: 6 of 10 evaluations skipped, 1.82x (toy, threshold 0.1, K 2)"
    )


def test_the_whole_text() -> None:
    # 2 tokens of 3 channels in float32 are 24 bytes: 0.0 MiB.
    told = {"asked": "a speed", "sampling": "euler, 10 steps"}
    assert str(report_of([timed(1.0, 0.25)], told=told)).splitlines()[1:] == [
        "  asked      a speed",
        "  sampling   euler, 10 steps",
        "  times      5.50 s for all evaluations, computed 1 s each, skipped 0.25 s each",
        f"  schedule   {PERIODIC}",
        "  computed   4 (first evaluation 1, max_skip 3)",
        "  settings   retention 0, steps 0 to -1, residuals reused, kept on device",
        "  memory     0.0 MiB of residuals at most",
    ]


def test_settings_in_the_text_are_those_of_the_run() -> None:
    text = str(report_of([timed(1.0, 0.25, retention=0.3, storage=Storage("offload"))]))
    assert "retention 0.3, steps 0 to -1, residuals reused, kept on offload" in text
    assert "retention 2" in text.splitlines()[3]  # of int(10·0.3) = 3 the first one is "first"


def test_speedup_takes_medians() -> None:
    # A slow first evaluation (compiling, say) does not count: 10·1 / (4·1 + 6·0.25).
    run = timed(1.0, 0.25)
    run.evaluations[0]._watches = [Took(100.0)]  # type: ignore[list-item]
    assert report_of([run]).speedup == pytest.approx(10 / 5.5)


def test_speedup_goes_by_what_computing_takes_around_a_skipped_evaluation() -> None:
    # A ControlNet that ends after six of 12 evaluations: computing takes 3 s, then 1 s.
    run = timed(1.0, 0.0, steps=12)
    for evaluation in run.evaluations[:6]:
        evaluation._watches = [Took(2.0 + (not evaluation.skipped))]  # type: ignore[list-item]
    # "#..#..#..#..": of 6·3 + 6·1 s, 2·3 + 4·2 + 2·1 s were taken; by medians of all it was 1.5.
    assert report_of([run]).speedup == pytest.approx(24 / 16, rel=0.15)


def test_a_host_may_time_whole_evaluations() -> None:
    run = timed(1.0, 0.25)
    for evaluation in run.evaluations:
        evaluation._whole = Took(2.0)  # type: ignore[assignment]
    assert report_of([run]).speedup == 1


def test_speedup_adds_the_times_of_runs() -> None:
    # Full: 10·1 + 10·3; taken: 4·1 + 6·0.5 and 4·3 + 6·0.5.
    assert report_of([timed(1, 0.5), timed(3, 0.5)]).speedup == pytest.approx(40 / 22)


def test_speedup_of_a_run_that_skips_nothing_is_one() -> None:
    assert report_of([timed(1, 0.5, threshold=0.0)]).speedup == 1


def test_counts_of_several_runs_add_up() -> None:
    report = report_of([sampled(), sampled(7)])
    assert (report.evaluations, report.computed, report.skipped) == (17, 7, 10)
    assert report.schedule == f"{PERIODIC} #..#..#"
    assert report.bytes_held == 24  # held at one time, not in all


def test_figures_are_json_and_add_up() -> None:
    report = report_of([timed(1.0, 0.25), timed(1.0, 0.25)])
    figures = json.loads(json.dumps(report.figures(), allow_nan=False))
    assert figures == report.figures()
    assert figures["computed"] + figures["skipped"] == figures["evaluations"] == 20
    assert figures["speedup"] == 1.818 and figures["bytes_held"] == 24
    assert figures["schedule"] == f"{PERIODIC} {PERIODIC}"
    for run in figures["runs"]:
        assert run["label"] == "toy"
        assert len(run["sigmas"]) == len(run["reasons"]) == len(run["seconds"]) == 10
        assert run["reasons"].count("skipped") == 6
        assert sum(run["seconds"]) == 5.5


def test_a_report_of_nothing() -> None:
    report = Report([])
    assert str(report) == report.headline() == "MagCache: no run yet"
    assert report.speedup == 1 and report.figures()["evaluations"] == 0
    with pytest.raises(ValueError, match="no run to draw"):
        report.save_picture("nowhere.png")


def test_a_report_of_an_uncached_model_says_why() -> None:
    report = Report([], missing="runs uncached: Toy has no head")
    assert report.headline() == "MagCache: runs uncached: Toy has no head"
    assert report.figures()["warnings"] == ["runs uncached: Toy has no head"]


def test_an_evaluation_that_could_not_be_skipped_counts_as_computed_everywhere() -> None:
    """The rule allowed a skip, but the branch was new: text, schedule and figures agree."""
    run = sampled()
    run.evaluations[1] = Evaluation(0.9, 1, Reason.SKIPPED, {"cond": False, "uncond": True})
    report = report_of([run])
    assert report.schedule == "##.#..#..#" and report.computed == 5
    assert report.runs[0].computed == 5
    assert "5 (first evaluation 1, no usable residual 1, max_skip 3)" in str(report)
    assert report.figures()["runs"][0]["reasons"].count("skipped") == 5


@pytest.mark.parametrize(("steps", "noted"), [(8, True), (9, False)])
def test_few_steps_are_noted(steps: int, noted: bool) -> None:
    warnings = report_of([sampled(steps)]).warnings
    assert warnings == ["8 steps: too few for the rule, so the difference is visible"] * noted


def test_a_curve_over_the_fraction_is_noted() -> None:
    run = with_curve(MagnitudeCurve.from_ratios([1.0] * 10))
    note = "the curve's noise levels are unknown, so it is applied by fraction of the trajectory"
    assert report_of([run]).warnings == [note]
    assert str(report_of([run])).endswith(f"\n  note       {note}")


def test_noise_levels_outside_the_curve_are_noted() -> None:
    run = with_curve(MagnitudeCurve((0.9, 0.2), (0.0, 0.0)))
    note = "some noise levels are outside the calibrated range, so the curve is extrapolated"
    assert report_of([run]).warnings == [note]
    assert report_of([with_curve(flat_curve())]).warnings == []


def test_warnings_of_the_run_come_first_and_without_repeats() -> None:
    runs = [sampled(5), sampled(5)]
    for run in runs:
        run.warnings.append("a residual held NaN or Inf")
    assert report_of(runs, "one expert runs uncached").warnings == [
        "one expert runs uncached",
        "a residual held NaN or Inf",
        "5 steps: too few for the rule, so the difference is visible",
    ]


def colours(path: Path) -> int:
    """How many a picture has; a blank one has 1."""
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 100
        return len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0))


def test_a_picture_of_a_run_is_written(tmp_path: Path) -> None:
    path = report_of([sampled()]).save_picture(tmp_path / "new" / "run.png")
    assert path == tmp_path / "new" / "run.png" and colours(path) > 10


def test_a_report_keeps_figures_only() -> None:
    """The model that it tells of is freed, and so is all that its run has held."""

    def made() -> tuple[Report, list[weakref.ref]]:
        run = sampled()
        blocks = list(run.stack.first.modules())
        return report_of([run]), [weakref.ref(each) for each in (run, run.decider, *blocks)]

    report, seen = made()
    gc.collect()
    assert [each() for each in seen] == [None] * len(seen) and report.evaluations == 10


def colours_along(picture: Image.Image, row: int, wanted: set[str]) -> list[str]:
    """The wanted colours of a row of pixels, one for each stretch."""
    pixels = np.asarray(picture)[row].astype(int)
    names = np.full(len(pixels), "", dtype=object)
    for colour in wanted:
        names[np.abs(pixels - ImageColor.getrgb(colour)).max(-1) <= 2] = colour
    return [name for at, name in enumerate(names) if name and (at == 0 or name != names[at - 1])]


@pytest.mark.parametrize("name", ["wan2.2_t2v_14B", FRACTION], ids=["sigma", "fraction"])
def test_a_picture_of_a_plan_shows_each_evaluation(name: str) -> None:
    preset = presets.load(name)
    schedule = scheduled(rule_of(preset), preset.curves, preset.trajectory())
    over = "fraction" if name == FRACTION else "sigma"
    count = len(schedule.sigmas)
    evaluations = [
        Evaluated(sigma, step, step / count if over == "fraction" else sigma, reason, 1.0)
        for step, (sigma, reason) in enumerate(zip(schedule.sigmas, schedule.reasons, strict=True))
    ]
    curves = {
        name: [curve.log_norm(each.place) for each in evaluations]
        for name, curve in preset.curves.items()
    }
    picture = draw_sampling("a title", evaluations, curves, over)
    expected = [colour_of(reason) for reason in schedule.reasons]
    assert expected.count(canvas.GREY) == schedule.skipped
    assert any(
        colours_along(picture, row, {*expected}) == expected for row in range(picture.height)
    )
    marks = np.asarray(picture)[: picture.height // 2]  # the first evaluation's is on the left
    first = np.abs(marks.astype(int) - ImageColor.getrgb(expected[0])).max(-1) <= 2
    assert np.flatnonzero(first.any(0))[0] < 100


def test_a_picture_compares_rows_of_images(tmp_path: Path) -> None:
    black, white = np.zeros((3, 8, 8, 3)), np.ones((2, 8, 8, 3))
    picture = draw_rows({"full": black, "cached": white}, ["a", "b", "c"])
    picture.save(path := tmp_path / "rows.png")
    assert colours(path) > 2
    pixels = np.asarray(picture)
    for colour, count in ((0, 3), (255, 2)):
        assert (pixels == colour).all(-1).sum() == count * 96**2


def test_the_line_says_why_it_is_less_than_was_asked_for() -> None:
    run = figures_of(timed(1.0, 0.25))
    assert Report([run]).line() == Report([run]).headline()
    assert Report([replace(run, shortfall="the best is 2")]).line().endswith("K 2); the best is 2")
