"""Mending in pipelines: what it is worth, and where the sampler does not allow it."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import diffusers as dfs
import numpy as np
import pytest

import magcache
from harness import build, sample
from magcache.decide.mending import Mender
from magcache.emoji import image as emoji
from magcache.images import difference
from magcache.report import Report
from tiny import TINY, Tiny

STEPS = 28


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAGCACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("speedup", "gain"), [(1.5, 2.0), (2.0, 1.0)])
def test_mended_images_are_closer_to_the_uncached_ones(speedup: float, gain: float) -> None:
    model = emoji.load()
    with magcache.apply(model.pipe, calibrate=True) as applied:
        model.generate(model.prompts("calibration")[:1], [0], STEPS)
        calibration = applied.calibration()

    def images(speedup: float) -> tuple[np.ndarray, int]:
        with magcache.apply(model.pipe, calibration=calibration, speedup=speedup) as applied:
            found = model.generate(model.prompts("test")[:6], list(range(6)), STEPS)
            return found.permute(0, 2, 3, 1)[:, None].numpy(), applied.report().mended

    uncached, none = images(1)
    mended, gaps = images(speedup)
    with patch.object(Mender, "factors", return_value=None):
        unmended, _ = images(speedup)
    assert none == 0 and gaps > 0

    def psnr(found: np.ndarray) -> float:
        return float(
            np.mean([difference(*pair).psnr for pair in zip(uncached, found, strict=True)])
        )

    assert psnr(mended) > psnr(unmended) + gain


def accelerated(pipe: dfs.DiffusionPipeline, tiny: Tiny) -> Report:
    """The report of a pipeline's second sampling; the first one measures it."""
    with magcache.apply(pipe, speedup=1.5) as applied:
        sample(pipe, tiny, steps=20)
        applied.reset()
        sample(pipe, tiny, steps=20)
        return applied.report()


@pytest.mark.parametrize("scheduler", ["euler", "unipc", "heun"])
def test_gaps_of_euler_only_are_mended(scheduler: str, home: Path) -> None:
    tiny = TINY["wan2.1_t2v"]
    report = accelerated(build(tiny, scheduler), tiny)
    assert report.skipped > 0
    assert (report.mended > 0) is (scheduler == "euler")


def test_nothing_is_mended_where_steps_draw_noise(home: Path) -> None:
    pipe = TINY["flux"].build()
    pipe.scheduler = dfs.FlowMatchEulerDiscreteScheduler.from_config(
        pipe.scheduler.config, stochastic_sampling=True
    )
    report = accelerated(pipe, TINY["flux"])
    assert report.skipped > 0 and report.mended == 0
