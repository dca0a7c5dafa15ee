"""Parts of a run, as KSampler (Advanced) samples them, against the published rule by step index."""

from dataclasses import replace
from typing import Any

import nodes
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from test_families import indexed_rule, magcache, own_sigmas
from tiny_models import TINY, Tiny, count_blocks

from magcache.curves import Calibration, presets
from tests.calibrations import sigmas_of, steps_of


def part(
    model: Any, tiny: Tiny, steps: int, first: int, last: int, leftover: bool, latent: Any = None
) -> tuple[str, torch.Tensor]:
    """What KSampler (Advanced) computes (#) and skips (.), and its latent."""
    positive, negative = tiny.conds()
    with count_blocks(model, tiny) as counts:
        (output,) = nodes.KSamplerAdvanced().sample(
            model, "enable" if first == 0 else "disable", 1, steps, 3.0, "euler", "simple",
            positive, negative, {"samples": tiny.latent() if latent is None else latent}, first,
            last, "enable" if leftover else "disable",
        )  # fmt: skip
    return str(counts), output["samples"]


def wan() -> Any:
    """The tiny Wan on the schedule of its list."""
    preset = presets.load("wan2.1_t2v_14B")
    model = ModelSamplingSD3().patch(TINY["wan_t2v"].build(), float(preset.settings["shift"]))[0]
    assert own_sigmas(model, steps_of(preset))[:-1] == pytest.approx(sigmas_of(preset), abs=1e-6)
    return model


@pytest.mark.parametrize("last", [15, 20, 30, 45, 49])
def test_an_early_end_without_leftover_noise_is_still_the_beginning(last: int) -> None:
    """ComfyUI then puts a 0 in place of the last σ, and the run looks like a whole one."""
    tiny, preset = TINY["wan_t2v"], presets.load("wan2.1_t2v_14B")
    model = magcache(wan(), "wan2.1_t2v_14B")
    patterns = [part(model, tiny, 50, 0, last, leftover)[0] for leftover in (True, False)]
    assert patterns == [indexed_rule(preset, range(last))] * 2
    assert "." in patterns[0]


@pytest.mark.parametrize("leftover", [True, False])
def test_a_curve_by_fraction_is_followed_at_the_undivided_runs_fractions(leftover: bool) -> None:
    """A run taken for whole would find each ratio twice as far along the list."""
    preset = presets.load("hunyuan_video_1.5_20steps")
    assert sigmas_of(preset) is None
    tiny = TINY["hunyuan_video"]
    settings = {"magcache_thresh": 0.1, "retention_ratio": 0.2, "magcache_K": 3}
    model = magcache(tiny.build(), "hunyuan_video1.5", **settings)
    expected = indexed_rule(_with(preset, 0.1, 0.2, 3), range(20))
    for last in (10, 14, 20):
        assert part(model, tiny, 20, 0, last, leftover)[0] == expected[:last]
    assert "." in expected[:10]


def _with(preset: Calibration, threshold: float, retention: float, max_skip: int) -> Calibration:
    return replace(preset, threshold=threshold, retention=retention, max_skip=max_skip)


@pytest.mark.parametrize("split", [12, 25, 40])
def test_the_second_part_is_protected_as_the_undivided_run_is(split: int) -> None:
    """Its first evaluation has no residual; from there the list's own ratios decide."""
    tiny, preset = TINY["wan_t2v"], presets.load("wan2.1_t2v_14B")
    model = magcache(wan(), "wan2.1_t2v_14B")
    first, latent = part(model, tiny, 50, 0, split, True)
    second, _ = part(model, tiny, 50, split, 10000, False, latent)
    assert (first, second) == (
        indexed_rule(preset, range(split)), indexed_rule(preset, range(split, 50)),
    )  # fmt: skip


def test_steps_are_counted_from_the_parts_own_first() -> None:
    tiny = TINY["wan_t2v"]
    widgets = {"magcache_thresh": 0.3, "retention_ratio": 0.1, "magcache_K": 6}
    model = magcache(wan(), "wan2.1_t2v_14B", **widgets, start_step=4, end_step=-3)
    first, latent = part(model, tiny, 20, 0, 10, False)
    second, _ = part(model, tiny, 20, 10, 10000, False, latent)
    for pattern in (first, second):
        assert len(pattern) == 10
        assert pattern[:4] == "####" and pattern[8:] == "##"
        assert set(pattern[4:8]) == {".", "#"} or pattern[4:8] == "...."
