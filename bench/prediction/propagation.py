"""Measures how much of a prediction's error is left at the end, one evaluation at a time.

One evaluation is predicted with the model's own curves, and all others are computed. The change at
the end is divided by the change right after the predicted evaluation.
"""

from functools import cache

import numpy as np
import torch
from rich.progress import track

from bench.kept import Kept
from tools.tables import table

from .forecast import FIRST, Choice, Lab, Planned

LABS = {
    "emoji, shift 3": Lab("emoji", 28, 3.0, 3.0, "euler", 16, FIRST),
    "emoji-video, shift 3": Lab("emoji-video", 28, 3.0, 3.0, "euler", 8, FIRST),
    "emoji-unet, CFG 5": Lab("emoji-unet", 28, 5.0, 1.0, "euler", 16, FIRST),
}
PLACES = (2, 5, 8, 11, 14, 17, 20, 23, 26, 27)


def tables() -> dict[str, str]:
    kept = Kept("propagation")

    def of(lab: Lab, place: int) -> str:
        found = kept.of(f"{lab.told}: {place}", lambda: {"left": left(lab, place)})
        return f"{np.exp(np.mean(np.log(found['left']))):.2g}"

    rows = [
        [title, *(of(lab, place) for place in PLACES)]
        for title, lab in track(LABS.items(), "predicting")
    ]
    head = ["left of an error in evaluation", *(str(place + 1) for place in PLACES)]
    return {"propagation": table(head, rows, len(PLACES))}


def left(lab: Lab, place: int) -> list[float]:
    """The part of an error in one evaluation that is left at the end, for each prompt."""
    grams, _ = lab.costs(Choice(source="own"))
    chosen = [each != place for each in range(lab.steps)]
    plan = Planned(chosen, grams, lab.levels, residual=False, mends="")

    def change(steps: int) -> torch.Tensor:
        predicted = lab.latents(levels=lab.levels[: steps + 1], plan=plan)
        return (predicted - computed(lab, steps)).flatten(1).norm(dim=1)

    shares = change(lab.steps) / change(place + 1)
    return [round(float(each), 4) for each in shares]


@cache
def computed(lab: Lab, steps: int) -> torch.Tensor:
    """The latents after some steps of the full run."""
    return lab.latents(levels=lab.levels[: steps + 1])
