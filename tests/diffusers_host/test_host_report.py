"""What a run on a pipeline reports."""

from __future__ import annotations

import gc
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import magcache
from harness import EAGER, FAMILIES, PRESETS, reference, sample
from tiny import TINY, Tiny, run

# 64x64 pixels: 16 tokens of an image, twice that for 2 latent frames or with a second image.
TOKENS = {"flux": 16, "chroma": 16, "qwen_image": 16}
CHANNELS = 32


@pytest.mark.parametrize("tiny", FAMILIES)
def test_counts_schedule_speedup_and_memory(tiny: Tiny) -> None:
    pipe = tiny.build()
    with magcache.apply(pipe, preset=PRESETS[tiny.name], **{**EAGER, "max_skip": 9}) as applied:
        _, schedule = sample(pipe, tiny, steps=12)
    report = applied.report()
    assert report.schedule.replace(" ", "") == schedule
    assert (report.evaluations, report.skipped) == (12, schedule.count("."))
    assert report.skipped > 6 and 0 < report.speedup < 100  # by the clock: other work may run
    floats = TOKENS.get(tiny.name, 32) * CHANNELS
    assert report.bytes_held == 2 * floats * 4  # cond and uncond, float32
    text = str(report)
    assert f"{report.skipped} of 12 evaluations skipped" in text and report.schedule in text
    assert f"({PRESETS[tiny.name]}, threshold 9, K 9)" in text
    figures = report.figures()
    sigmas = [sigma for run in figures["runs"] for sigma in run["sigmas"]]
    assert sigmas == pytest.approx(reference(tiny, steps=12, cfg=False).sigmas)
    assert len(figures["runs"]) == (2 if tiny.name == "wan2.2_t2v" else 1)


@pytest.mark.parametrize(
    ("settings", "size"),
    [({}, 2), ({"dtype": torch.float8_e4m3fn}, 1), ({"store": "offload"}, 2)],
    ids=["bfloat16", "fp8", "offload"],
)
def test_memory_of_a_half_precision_model(settings: dict[str, Any], size: int) -> None:
    tiny = TINY["wan2.1_t2v"]
    pipe = tiny.build().to(torch.bfloat16)
    inputs = tiny.inputs(pipe, cfg=False)
    inputs["prompt_embeds"] = inputs["prompt_embeds"].bfloat16()
    with magcache.apply(pipe, preset="wan2.1_t2v_14B", **EAGER, **settings) as applied:
        latents = run(pipe, **inputs)
    scale = 4 if size == 1 else 0
    assert latents.isfinite().all() and applied.report().skipped == 6
    assert applied.report().bytes_held == 32 * CHANNELS * size + scale


def test_batch_and_size_count() -> None:
    tiny = TINY["flux"]
    pipe = tiny.build()
    with magcache.apply(pipe, preset="flux", **EAGER) as applied:
        run(pipe, **tiny.inputs(pipe, batch=2, size=(96, 64)))
    assert applied.report().bytes_held == 2 * 2 * 24 * CHANNELS * 4


def test_a_line_is_logged_for_each_run(caplog: pytest.LogCaptureFixture) -> None:
    tiny = TINY["framepack"]
    pipe = tiny.build()
    with (
        caplog.at_level(logging.INFO, "magcache"),
        magcache.apply(pipe, preset="framepack", **EAGER) as applied,
    ):
        run(pipe, **tiny.inputs(pipe, sections=2))
        run(pipe, **tiny.inputs(pipe, steps=12))
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("MagCache: 12 of 20 evaluations skipped")
    assert second.startswith("MagCache: 8 of 12 evaluations skipped")
    assert applied.report().evaluations == 32
    applied.reset()
    assert applied.report().evaluations == 0 and "no run yet" in str(applied.report())


def test_the_report_of_a_run_under_way_can_be_read() -> None:
    tiny = TINY["flux"]
    pipe = tiny.build()
    seen: list[str] = []

    def look(_: Any, __: int, ___: Any, ____: Any) -> dict:
        seen.append(applied.report().schedule)
        return {}

    with magcache.apply(pipe, preset="flux", **EAGER) as applied:
        run(pipe, **tiny.inputs(pipe), callback_on_step_end=look)
    whole = applied.report().schedule
    assert seen == [whole[: i + 1] for i in range(10)]


@pytest.mark.parametrize(
    "asked", [{"preset": "flux"}, {"speedup": 2}, {"calibrate": True}], ids=str
)
def test_a_kept_report_keeps_no_weights(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MAGCACHE_HOME", str(tmp_path))
    tiny = TINY["flux"]
    pipe = tiny.build()
    weights = [weakref.ref(weight) for weight in pipe.transformer.parameters()]
    with magcache.apply(pipe, **asked) as applied:
        run(pipe, **tiny.inputs(pipe, steps=12))
        report = applied.report()
    del pipe, applied
    gc.collect()
    assert not any(weight() is not None for weight in weights)
    assert report.evaluations == 12


def test_it_says_what_was_sampled_with() -> None:
    tiny = TINY["flux"]
    pipe = tiny.build()
    with magcache.apply(pipe, preset="flux") as applied:
        run(pipe, **tiny.inputs(pipe, steps=12))
    cfg = tiny.inputs(pipe, steps=12)["true_cfg_scale"]
    told = f"FlowMatchEulerDiscreteScheduler, 12 steps, CFG {cfg:g}, shift "
    assert f"  sampling   {told}" in str(applied.report())
    assert applied.report().figures()["told"]["sampling"].startswith(told)
