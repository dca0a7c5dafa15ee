"""MagCache Report: which sampling it tells of, what it says, and that its picture says the same."""

import copy
import gc
import time
import weakref
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image, ImageColor, ImageFont
from test_beside_conditions import Control, with_values
from tiny_models import TINY, sample
from watch import calibrate, settings_of

from magcache.decide import Reason
from magcache.hosts.comfyui.nodes.calibration import MagCacheCalibration
from magcache.hosts.comfyui.nodes.magcache import MagCache
from magcache.hosts.comfyui.nodes.report import MagCacheReport
from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed
from magcache.pictures import canvas
from magcache.pictures.schedule import LEFT, RIGHT, colour_of, draw_sampling
from magcache.report import Evaluated, RunReport

WAN = TINY["wan_t2v"]
STEPS = 12
S, FIRST, T = Reason.SKIPPED, Reason.FIRST, Reason.THRESHOLD


@pytest.fixture(autouse=True)
def folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))


def cached(model: Any = None, **options: Any) -> Any:
    options = {"calibration": "published", **options}
    return MagCache().apply(
        WAN.build() if model is None else model, "auto", 0.24, 0.2, 4, 0, -1, **options
    )[0]


def report(model: Any, after: Any = None) -> tuple[np.ndarray, str]:
    """Picture (H, W, 3) in 0..255 and text, as they leave the node."""
    picture, text, passed = MagCacheReport().report(model, after)["result"]
    assert passed is after and picture.shape[0] == 1 and picture.shape[-1] == 3
    return (picture[0].numpy() * 255).round().astype(int), text


def test_it_tells_settings_curve_counts_speed_and_memory() -> None:
    model = cached()
    sample(model, WAN, STEPS)
    skipped = settings_of(model).watch.last.skipped
    lines = report(model)[1].splitlines()
    assert lines[0].startswith(f"MagCache: {skipped} of {STEPS} evaluations skipped, ")
    assert lines[0].endswith("x (wan2.1_t2v_1.3B, threshold 0.24, K 4)")
    said = {line.split()[0]: line.split(None, 1)[1] for line in lines[1:]}
    assert said["asked"] == "model_type auto, calibration published"
    assert said["sampling"] == "euler, 12 steps, CFG 3, shift 8, latent 1x16x2x8x8"
    assert " s for all evaluations, computed " in said["times"] and ", skipped " in said["times"]
    assert said["schedule"].count(".") == skipped
    assert said["computed"].startswith(f"{STEPS - skipped} (first evaluation 1, retention 1")
    assert said["settings"].startswith("retention 0.2, ")
    assert said["memory"].endswith("MiB of residuals at most")


def test_warnings_are_part_of_it() -> None:
    model = cached()
    sample(model, WAN, 5)
    assert (
        "note       5 steps: too few for the rule, so the difference is visible" in report(model)[1]
    )


def test_after_a_measuring_sampling_it_shows_the_curve_that_was_measured() -> None:
    (model,) = MagCacheCalibration().apply(WAN.build(), "auto")
    sample(model, WAN, STEPS)
    (record,) = settings_of(model).watch.last.runs
    assert f"computed   {STEPS} (calibration {STEPS})" in report(model)[1]
    assert set(record.curves) == {"cond", "uncond"}
    for curve in record.curves.values():
        assert len(curve) == STEPS and len({*curve}) == STEPS
    assert all(each.error is None for each in record.evaluations)


def test_a_planned_run_has_an_expected_error_where_it_skips() -> None:
    (model,) = MagCacheTargetSpeed().apply(WAN.build(), 2.0, "automatic")
    calibrate(model, WAN, STEPS)
    sample(model, WAN, STEPS)
    (record,), text = settings_of(model).watch.last.runs, report(model)[1]
    assert "asked      speed-up 2, calibration automatic" in text
    assert "note       calibration " in text and "same weights" in text
    for each in record.evaluations:
        assert (each.error is not None) == each.skipped
        assert each.error is None or 0 < each.error < 1
    assert sum(each.skipped for each in record.evaluations) == STEPS // 2


def test_of_several_samplings_it_shows_the_last_and_how_many() -> None:
    model = cached()
    sample(model, WAN, STEPS)
    assert "runs" not in report(model)[1]
    sample(model, WAN, 20)
    text = report(model)[1]
    assert " of 20 evaluations skipped" in text
    assert "runs       2 since the MagCache node last ran; this is the last one" in text


def test_two_models_have_their_own_reports() -> None:
    high, low = cached(), cached()
    sample(high, WAN, 10)
    sample(low, WAN, 14)
    assert " of 10 evaluations" in report(high)[1] and " of 14 evaluations" in report(low)[1]


def test_of_two_nodes_in_a_row_both_report_the_sampling_and_say_which_had_no_effect() -> None:
    """Once, the first one's report went on showing the run from before the second was added."""
    front = cached()
    sample(front, WAN, STEPS)
    behind = MagCacheTargetSpeed().apply(front, 2.0, "automatic")[0]
    sample(behind, WAN, 14)
    front_text, text = report(front)[1], report(behind)[1]
    assert " of 14 evaluations" in front_text and " of 14 evaluations" in text
    assert "node       another MagCache node behind this one took its place" in front_text
    assert "note       the MagCache node in front of this one has no effect" in text
    sample(front, WAN, 10)
    again = report(front)[1]
    assert " of 10 evaluations" in again and "took its place" not in again


@pytest.mark.parametrize(("kind", "least", "most"), [("rule", 1.0, 1.4), ("forecast", 1.6, 2.1)])
def test_the_speed_up_counts_the_time_of_controlnets(kind: str, least: float, most: float) -> None:
    """They take nearly all of the time here; the rule runs them in each evaluation."""
    tiny = TINY["flux"]

    class Slow(Control):
        def get_control(self, *asked: Any) -> Any:
            time.sleep(0.1)
            return super().get_control(*asked)

        def copy(self) -> "Slow":
            twin = Slow()
            self.copy_to(twin)
            return twin

    control = Slow().set_cond_hint(torch.zeros(1, 3, 64, 64), 1.0, (0.0, 1.0))
    extra = {"control": control, "control_apply_to_uncond": True}
    conds = tuple(with_values(each, **extra) for each in tiny.conds())
    model = tiny.build()
    if kind == "rule":
        model = MagCache().apply(model, "auto", 0.24, 0.1, 5, 0, -1)[0]
    else:
        model = MagCacheTargetSpeed().apply(model, 2.0, "automatic")[0]
    sample(model, tiny, 12, conds=conds)
    last = settings_of(model).watch.last
    assert last.skipped >= 6 and least <= last.speedup < most


def test_the_sampling_of_a_clone_is_the_models_own() -> None:
    """As with a LoRA behind the MagCache node; older versions copy a clone's options in depth."""
    model = cached()
    clone = model.clone()
    clone.model_options = copy.deepcopy(clone.model_options)
    sample(clone, WAN, STEPS)
    assert f" of {STEPS} evaluations" in report(model)[1]
    assert report(model)[1] == report(clone)[1]


def test_before_any_sampling_it_says_what_to_do() -> None:
    picture, text = report(cached())
    assert text.startswith("MagCache: no run yet\n") and "Connect `after`" in text
    assert picture.shape[1] == 800 and spread(picture) > 30


def test_without_magcache_it_says_so() -> None:
    assert report(WAN.build())[1].startswith("MagCache is not on this model\n")
    (model,) = MagCacheTargetSpeed().apply(WAN.build(), 1.0, "automatic")
    assert "a speed-up of 1" in report(model)[1]


def test_something_else_than_a_model_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a loaded diffusion model, not str"):
        report("no model")


def test_an_uncached_sampling_is_reported_with_the_reason() -> None:
    model = cached()
    model.model_options["transformer_options"]["easycache"] = SimpleNamespace(name="easycache")
    sample(model, WAN, STEPS)
    picture, text = report(model)
    assert text.startswith("MagCache: runs uncached: easycache is on the same model")
    assert "asked      model_type auto" in text and spread(picture) > 30


def test_an_interrupted_sampling_leaves_the_report_of_the_one_before() -> None:
    def stop(step: int, *_: Any) -> None:
        raise KeyboardInterrupt

    model = cached()
    sample(model, WAN, STEPS)
    before = report(model)[1]
    with pytest.raises(KeyboardInterrupt):
        sample(model, WAN, 20, callback=stop)
    assert report(model)[1] == before


def test_a_report_keeps_no_model_and_no_tensor() -> None:
    model = cached()
    sample(model, WAN, STEPS)
    watch, network = settings_of(model).watch, weakref.ref(model.model.diffusion_model)
    assert {type(leaf) for leaf in leaves(watch.last)} <= {str, int, float, Reason, type(None)}
    del model
    gc.collect()
    assert network() is None and watch.last.evaluations


def leaves(value: Any) -> list[Any]:
    if is_dataclass(value):
        return [leaf for each in fields(value) for leaf in leaves(getattr(value, each.name))]
    if isinstance(value, dict):
        return leaves([*value, *value.values()])
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in leaves(each)]
    return [value]


def test_what_comes_in_leaves_unchanged_and_the_page_gets_picture_and_text(tmp_path: Any) -> None:
    model, latent = cached(), {"samples": torch.zeros(1)}
    sample(model, WAN, STEPS)
    shown = MagCacheReport().report(model, latent)
    assert shown["result"][2] is latent
    (image,) = shown["ui"]["images"]
    with Image.open(tmp_path / image["subfolder"] / image["filename"]) as saved:
        assert saved.width == 800 and image["type"] == "temp"
    assert shown["ui"]["text"] == [shown["result"][1]]


def test_any_connection_fits_after_and_its_way_out() -> None:
    from comfy_execution.validation import validate_node_input

    kind = MagCacheReport.INPUT_TYPES()["required"]["after"][0]
    for other in ("LATENT", "IMAGE", "VIDEO,AUDIO"):
        assert validate_node_input(other, kind) and validate_node_input(kind, other)
        assert validate_node_input(MagCacheReport.RETURN_TYPES[2], other)


# The picture


def spread(picture: np.ndarray) -> float:
    return float(picture.std())


def made(
    reasons: Sequence[Reason], error: float | None = None, places: Sequence[float] = ()
) -> RunReport:
    """A run whose evaluations lie at even distances, skipped ones taking a tenth."""
    places = places or [1 - at / (len(reasons) - 1) for at in range(len(reasons))]
    evaluations = tuple(
        Evaluated(place, at, place, reason, *((0.1, error) if reason is S else (1.0, None)))
        for at, (place, reason) in enumerate(zip(places, reasons, strict=True))
    )
    return RunReport("label", "", "", evaluations, curves={"cond": tuple(places)})


def pixels(run: RunReport, headline: str = "one line") -> np.ndarray:
    drawn = draw_sampling(headline, run.evaluations, run.curves, run.over)
    return np.asarray(drawn).astype(int)


def is_colour(picture: np.ndarray, colour: str) -> np.ndarray:
    return np.all(np.abs(picture - np.array(ImageColor.getrgb(colour))) <= 2, axis=-1)


def runs_of(row: np.ndarray, colours: set[str]) -> list[str]:
    """The colours of a row of pixels in order, one for each stretch of one colour."""
    names = np.full(len(row), "", dtype=object)
    for colour in colours:
        names[is_colour(row, colour)] = colour
    changes = [name for at, name in enumerate(names) if at == 0 or name != names[at - 1]]
    return [name for name in changes if name]


@pytest.mark.parametrize("count", [1, 2, 12, 50, 150])
def test_a_row_of_the_picture_spells_out_the_schedule(count: int) -> None:
    reasons = ([FIRST, S, S, T, Reason.MAX_SKIP] * count)[:count]
    picture = pixels(made(reasons, places=[0.5] if count == 1 else ()))
    colours = [colour_of(reason) for reason in reasons]
    assert any(runs_of(row, {*colours}) == colours for row in picture)


def test_the_schedule_of_a_real_run_is_drawn() -> None:
    model = cached()
    sample(model, WAN, 28)
    colours = [colour_of(each.reason) for each in settings_of(model).watch.last.runs[0].evaluations]
    picture, _ = report(model)
    assert colours.count(canvas.GREY) > 10
    assert any(runs_of(row, {*colours}) == colours for row in picture)


def test_marks_lie_on_the_curve_at_their_noise_levels_skipped_ones_hollow() -> None:
    """The curve falls from the upper left to the lower right, over the first third or so."""
    picture = pixels(made([FIRST, S, T, S, T]))[:320]
    for place, reason in ((0.5, T), (0.75, S), (0.25, S)):
        column = round(LEFT + (1 - place) * (RIGHT - LEFT))
        coloured = np.flatnonzero(is_colour(picture[:, column], colour_of(reason)))
        assert len(coloured) >= 2, "a mark"
        middle = picture[round(coloured.mean()), column - 1 : column + 2]
        hollow = not is_colour(middle, colour_of(reason)).any()
        assert hollow == (reason is S)
        aside = is_colour(picture[:, column + 25], colour_of(reason))
        assert not aside.any()
    columns = [round(LEFT + share * (RIGHT - LEFT)) for share in (0.25, 0.5, 0.75)]
    colours = (canvas.GREY, canvas.ORANGE, canvas.GREY)
    first, second, third = (
        np.flatnonzero(is_colour(picture[:, column], colour)).mean()
        for column, colour in zip(columns, colours, strict=True)
    )
    assert first < second < third
    assert second - first == pytest.approx(third - second, abs=4)


def test_bars_are_as_high_as_the_times() -> None:
    """Two computed evaluations of 1 s, and between them a skipped one of 0.1 s."""
    picture = pixels(made([FIRST, S, T]))
    columns = [round(LEFT + (RIGHT - LEFT) * (at + 0.3) / 3) for at in range(3)]
    heights = []
    for column, colour in zip(columns, (canvas.BLUE, canvas.GREY, canvas.ORANGE), strict=True):
        coloured = is_colour(picture[330:, column], colour)
        stretches = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], coloured, [0]]))))[::2]
        heights.append(int(stretches[0]))  # the second is the schedule's cell
    assert heights[0] == heights[2] and heights[1] == pytest.approx(heights[0] / 10, abs=1.5)


def test_expected_errors_are_drawn_where_there_are_any() -> None:
    reasons = [FIRST, S, T, S, S, T]
    without, having = pixels(made(reasons)), pixels(made(reasons, 0.2))
    assert not is_colour(without, canvas.VIOLET).any()
    assert len(having) > len(without) + 100
    drawn = np.flatnonzero(is_colour(having, canvas.VIOLET).any(0))
    numbers = {int((column - LEFT) / (RIGHT - LEFT) * len(reasons)) for column in drawn}
    assert numbers == {at for at, reason in enumerate(reasons) if reason is S}


def test_long_lines_stay_on_the_card() -> None:
    run = made([FIRST, S, T])
    picture = pixels(run, f"{'a_very_long_calibration_name ' * 10} {'one-name-' * 20}")
    background = np.array(ImageColor.getrgb(canvas.CARD))
    assert (picture[:, :20] == background).all() and (picture[:, -14:] == background).all()
    assert len(picture) > len(pixels(run)) + 50


def test_values_on_axes_are_round_and_few() -> None:
    for start, end in ((0, 1), (0.03, 0.97), (1.0, 0.14), (-0.02, 0.9), (0, 3e-4), (28, 57)):
        for about in (3, 6):
            values = canvas.ticks(start, end, about)
            assert about / 2 < len(values) <= 2 * about
            assert min(start, end) - 1e-9 <= values[0] and values[-1] <= max(start, end) + 1e-9
            assert all(len(f"{value:g}") <= 6 for value in values)
    assert canvas.ticks(5, 5, 3) == [5]


def test_an_older_pillow_draws_in_its_only_size(monkeypatch: pytest.MonkeyPatch) -> None:
    small = ImageFont.load_default(10)

    def load_default() -> Any:
        return small

    monkeypatch.setattr(ImageFont, "load_default", load_default)
    assert spread(pixels(made([FIRST, S, T]))) > 20
