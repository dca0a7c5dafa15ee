"""Measures first runs of every small model, and what runs teach; draws docs/first-runs.png."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import track

from bench.figures import mean_tenth_least
from tools.tables import table

from .forecast import Choice, Figures, Lab

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE = Path("docs/first-runs.png")
COUNTS = (7, 10, 14)
LABS = {
    "emoji, shift 1": Lab("emoji", 28, 3.0, 1.0, "euler", 32, 0),
    "emoji, shift 3": Lab("emoji", 28, 3.0, 3.0, "euler", 32, 0),
    "emoji-video, shift 3": Lab("emoji-video", 28, 3.0, 3.0, "euler", 32, 0),
    "emoji-unet, CFG 5": Lab("emoji-unet", 28, 5.0, 1.0, "euler", 32, 0),
}
WAYS = {
    "plain, as many steps": (None, "0.55"),
    "**first run**": ("prior", "#D55E00"),
    "after three runs": ("learned", "#0072B2"),
    "with its own curves": ("own", "#009E73"),
}
"""Where the curves are from, and the colour in the picture."""

Psnr = dict[str, dict[str, list[Sequence[float]]]]
"""PSNR of each prompt, by model, way and count."""


def tables() -> dict[str, str]:
    found = measured()
    draw(found).savefig(PICTURE, dpi=110, facecolor="white")
    return {"first runs": rows_of(found)}


def measured() -> Psnr:
    """The figures of all models."""
    figures, found = Figures(), Psnr()
    for title, lab in track(LABS.items(), "sampling"):
        found[title] = {
            way: [_psnr(figures, lab, source, count) for count in COUNTS]
            for way, (source, _) in WAYS.items()
        }
    return found


def _psnr(figures: Figures, lab: Lab, source: str | None, count: int) -> Sequence[float]:
    if source is None:
        return figures.plain(lab, count)
    return figures.planned(lab, count, Choice(source=source))[0]


def rows_of(found: Psnr) -> str:
    """A row per model and way, in Markdown."""
    head = ["", f"{COUNTS[0]} of 28 computed", *map(str, COUNTS[1:])]
    rows = [
        [f"{title}: {way}", *map(mean_tenth_least, psnr)]
        for title, ways in found.items() for way, psnr in ways.items()
    ]  # fmt: skip
    return table(head, rows, len(COUNTS))


def draw(found: Psnr) -> "Figure":
    """A panel per model: the mean as a line, the worst prompt as a triangle."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True)
    for axes, (title, ways) in zip(panels, found.items(), strict=True):
        for way, psnr in ways.items():
            _, colour = WAYS[way]
            axes.plot(COUNTS, [np.mean(p) for p in psnr], "o-", color=colour, label=way.strip("*"))
            axes.plot(COUNTS, [min(p) for p in psnr], "v", color=colour, markerfacecolor="none")
        axes.set_title(title, fontsize=10)
        axes.set_xticks(COUNTS)
        axes.set_xlabel("computed of 28")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("PSNR, dB: mean (line), worst (triangle)")
    panels[-1].legend(frameon=False, fontsize=8)
    return figure
