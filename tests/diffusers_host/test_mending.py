"""Mending in pipelines: what it is worth, and where the sampler does not allow it."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import diffusers as dfs
import numpy as np
import pytest

import magcache
from harness import build, sample
from magcache.decide.mending import Mender
from magcache.emoji import image as emoji
from magcache.emoji import unet
from magcache.images import difference
from magcache.report import Report
from tiny import TINY, Tiny

STEPS = 28


class Drawn:
    """Images of one model, four at a time.

    Args:
        calibrated: Whether residuals are predicted from a calibration; otherwise it forecasts.
    """

    def __init__(self, model: Any, *, calibrated: bool) -> None:
        self.model, self.source = model, {}
        if calibrated:
            with magcache.apply(self.model.pipe, calibrate=True) as applied:
                self.model.generate(self.model.prompts("calibration")[:1], [0], STEPS)
                self.source = {"calibration": applied.calibration()}
        self.uncached, self.mended_uncached = self.at(1)

    def at(self, speedup: float) -> tuple[np.ndarray, int]:
        """Images at a speed-up, and how many gaps were mended."""
        options: dict[str, Any] = {**self.source, "speedup": speedup}
        with magcache.apply(self.model.pipe, **options) as applied:
            found = self.model.generate(self.model.prompts("test")[:4], range(4), STEPS)
            return found.permute(0, 2, 3, 1)[:, None].numpy(), applied.report().mended

    def psnr(self, found: np.ndarray) -> float:
        """Mean PSNR to the uncached ones."""
        pairs = zip(self.uncached, found, strict=True)
        return float(np.mean([difference(*pair).psnr for pair in pairs]))


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    return Drawn(emoji.load(), calibrated=True)


@pytest.fixture(scope="module")
def drawn_by_unet() -> Drawn:
    return Drawn(unet.load(), calibrated=False)


@pytest.mark.parametrize(("speedup", "gain"), [(1.5, 5.0), (2.0, 3.0)])
def test_mended_images_are_closer_to_the_uncached_ones(
    speedup: float, gain: float, drawn: Drawn
) -> None:
    check_mending(drawn, speedup, gain)


def test_a_forecast_mends_a_model_that_adds_noise_to_its_input(drawn_by_unet: Drawn) -> None:
    check_mending(drawn_by_unet, 2.0, 5.0)


def check_mending(drawn: Drawn, speedup: float, gain: float) -> None:
    """Mending makes the images closer by `gain` dB."""
    mended, gaps = drawn.at(speedup)
    with patch.object(Mender, "factors", return_value=None):
        unmended, _ = drawn.at(speedup)
    assert drawn.mended_uncached == 0 and gaps > 0
    assert drawn.psnr(mended) > drawn.psnr(unmended) + gain


def accelerated(pipe: dfs.DiffusionPipeline, tiny: Tiny) -> Report:
    """The report of a calibrated pipeline's sampling."""
    with magcache.apply(pipe, calibrate=True) as measuring:
        sample(pipe, tiny, steps=20)
        calibration = measuring.calibration()
    with magcache.apply(pipe, calibration=calibration, speedup=1.5) as applied:
        sample(pipe, tiny, steps=20)
        return applied.report()


@pytest.mark.parametrize("scheduler", ["euler", "unipc", "heun"])
def test_gaps_of_euler_only_are_mended(scheduler: str) -> None:
    tiny = TINY["wan2.1_t2v"]
    report = accelerated(build(tiny, scheduler), tiny)
    assert report.skipped > 0
    assert (report.mended > 0) is (scheduler == "euler")


def test_nothing_is_mended_where_steps_draw_noise() -> None:
    pipe = TINY["flux"].build()
    pipe.scheduler = dfs.FlowMatchEulerDiscreteScheduler.from_config(
        pipe.scheduler.config, stochastic_sampling=True
    )
    report = accelerated(pipe, TINY["flux"])
    assert report.skipped > 0 and report.mended == 0
