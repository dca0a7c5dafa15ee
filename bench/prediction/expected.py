"""Compares the expected error of plans with the PSNR of the images they make.

Small models in first runs of 8 to 28 Euler steps, with a prior that does not include the model, on
prompts that no published figure uses. Draws docs/expected.png.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import track

from bench.figures import mean_tenth_least
from magcache.decide.difference import WORDS, in_words
from magcache.decide.search import expected_error
from tools.tables import table

from .forecast import FIRST, Figures, Lab

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE = Path("docs/expected.png")
SHARES = (0.25, 0.36, 0.5, 0.68, 0.75)
LABS = [
    *(Lab("emoji", n, 3.0, s, "euler", 16, FIRST) for n in (28, 20, 12, 8) for s in (1.0, 3.0)),
    *(Lab("emoji", n, 1.0, 3.0, "euler", 16, FIRST) for n in (28, 20)),
    *(Lab("emoji-turbo", 8, 1.0, s, "euler", 16, FIRST) for s in (1.0, 3.0)),
    *(Lab("emoji-unet", n, 3.0, 1.0, "euler", 16, FIRST) for n in (28, 20, 12, 8)),
    *(Lab("emoji-video", n, 3.0, 3.0, "euler", 4, FIRST) for n in (28, 20, 8)),
]
COLOURS = {
    "emoji": "#D55E00", "emoji-turbo": "#E69F00", "emoji-unet": "#0072B2", "emoji-video": "#009E73",
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One plan of one model: its expected error and its result."""

    model: str
    expected: float
    psnr: Sequence[float]

    @property
    def tenth(self) -> float:
        """10th percentile of the PSNR, dB."""
        return float(np.quantile(self.psnr, 0.1))


def tables() -> dict[str, str]:
    found = points()
    draw(found).savefig(PICTURE, dpi=110, facecolor="white")
    return {"expected": rows_of(found)}


def points() -> list[Point]:
    """A point for each plan in each condition."""
    figures, found = Figures(), []
    for lab in track(LABS, "sampling"):
        _, costs = lab.costs()
        for share in SHARES:
            psnr, plan = figures.planned(lab, round(share * lab.steps))
            expected = expected_error(costs, [each == "#" for each in plan])
            found.append(Point(lab.name, expected, psnr))
    return found


def rows_of(found: Sequence[Point]) -> str:
    """A row per word, in Markdown."""
    tenth = "PSNR that nine of ten pictures reach: mean / 10th percentile / minimum over the plans"
    limits = {word: f"up to {most:g}" for most, word in WORDS} | {in_words(1.0): "more"}
    rows = []
    for word, limit in limits.items():
        own = [point.tenth for point in found if in_words(point.expected) == word]
        rows.append([word, limit, str(len(own)), mean_tenth_least(own)])
    return table(["expected difference", "expected error", "plans", tenth], rows, 3)


def correlation(found: Sequence[Point]) -> float:
    """Correlation of log expected error and the 10th percentile of the PSNR."""
    logs = np.log([point.expected for point in found])
    return float(np.corrcoef(logs, [point.tenth for point in found])[0, 1])


def draw(found: Sequence[Point]) -> "Figure":
    """Draws PSNR over the expected error, with a colour per model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for model, colour in COLOURS.items():
        own = [point for point in found if point.model == model]
        axes.plot([p.expected for p in own], [p.tenth for p in own], "o", color=colour, label=model)
    axes.set_xscale("log")
    edges = [axes.get_xlim()[0], *(most for most, _ in WORDS), axes.get_xlim()[1]]
    for low, high in itertools.pairwise(edges):
        axes.axvline(low, color="0.8", linewidth=1, zorder=0)
        middle = (low * high) ** 0.5
        axes.text(middle, axes.get_ylim()[1], in_words(middle), ha="center", va="bottom")
    axes.set_xlabel("expected error of the plan")
    axes.set_ylabel("PSNR that nine of ten pictures reach, dB")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    axes.set_title(f"{len(found)} plans, correlation {correlation(found):.2f}", pad=20)
    return figure
