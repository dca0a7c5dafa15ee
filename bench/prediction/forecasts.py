"""Measures the choices of a forecast, one at a time, on prompts that no published figure uses."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from rich.progress import track

from tools.tables import table

from .forecast import AS_USED, FIRST, Choice, Figures, Lab

COUNTS = (7, 10, 14)
MODELS = {"emoji": (3.0, (1.0, 3.0), 16), "emoji-video": (3.0, (1.0, 3.0), 8),
          "emoji-unet": (5.0, (1.0,), 16)}  # fmt: skip
"""CFG scale, shifts and number of prompts."""


OWN = Choice(source="own")
CHOICES: Mapping[str, tuple[str, Choice, Choice]] = {
    "block residual instead of the output": ("euler", AS_USED, Choice(residual=True)),
    "the same with its own curves": ("euler", OWN, replace(OWN, residual=True)),
    "the same with its own curves, `res_multistep`": (
        "res_multistep", OWN, replace(OWN, residual=True)
    ),
    **{
        f"weight {weight}": ("euler", AS_USED, Choice(weight=weight))
        for weight in ("(1+16σ⁶)/(1+4σ)", "(1+30σ³)/(1+4σ)")
    },
    "gap sampled anew, `res_multistep`": ("res_multistep", AS_USED, Choice(mends="again")),
}  # fmt: skip
"""The sampler, what is in use and what is compared with it."""


def tables() -> dict[str, str]:
    figures = Figures()
    rows = [
        [name, *(_gain(figures, model, *choice) for model in MODELS)]
        for name, choice in track(CHOICES.items(), "sampling")
    ]
    return {"forecasts": table(["", *MODELS], rows, len(MODELS))}


def _gain(figures: Figures, model: str, sampler: str, used: Choice, other: Choice) -> str | None:
    """Of the mean and of the 10th percentile, as a mean over shifts and counts."""
    if model == "emoji-unet" and other.residual:
        return None  # it has no stack of blocks
    cfg, shifts, prompts = MODELS[model]
    gains = []
    for shift in shifts:
        lab = Lab(model, 28, cfg, shift, sampler, prompts, FIRST)
        for count in COUNTS:
            now, then = (_summary(figures, lab, count, choice) for choice in (used, other))
            gains.append(then - now)
    return " / ".join(f"{each:+.1f}" for each in np.mean(gains, 0))


def _summary(figures: Figures, lab: Lab, count: int, choice: Choice) -> np.ndarray:
    psnr, _ = figures.planned(lab, count, choice)
    return np.array([np.mean(psnr), np.quantile(psnr, 0.1)])
