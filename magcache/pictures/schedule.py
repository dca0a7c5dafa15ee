"""The picture of one sampling: curve, times, expected errors and schedule."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Protocol

from PIL import Image

from ..decide import Reason
from .canvas import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    LINES,
    ORANGE,
    PINK,
    RED,
    SIZE,
    VIOLET,
    YELLOW,
    Canvas,
    Plot,
    around,
)

WIDTH, LEFT, RIGHT = 800, 92, 776
_ALWAYS = BLUE  # computed regardless of the curve
_COLOURS = {
    Reason.SKIPPED: GREY,
    Reason.THRESHOLD: ORANGE,
    Reason.ERROR: ORANGE,
    Reason.MAX_SKIP: YELLOW,
    Reason.PLANNED: GREEN,
    Reason.CALIBRATION: PINK,
    Reason.NO_RESIDUAL: RED,
    Reason.NO_RATIO: RED,
}


class Evaluation(Protocol):
    """One evaluation, see `magcache.report.Evaluated`."""

    @property
    def place(self) -> float: ...
    @property
    def reason(self) -> Reason: ...
    @property
    def skipped(self) -> bool: ...
    @property
    def seconds(self) -> float: ...
    @property
    def error(self) -> float | None: ...


def colour_of(reason: Reason) -> str:
    """The colour of an evaluation, the same in every part of the picture."""
    return _COLOURS.get(reason, _ALWAYS)


def draw_text(headline: str, text: str) -> Image.Image:
    """A card with text only."""
    canvas = Canvas(WIDTH, 1400)
    y = canvas.lines(24, 22, headline)
    return canvas.image(canvas.lines(24, y + 8, text, FAINT) + 14)


def draw_sampling(
    headline: str,
    evaluations: Sequence[Evaluation],
    curves: Mapping[str, Sequence[float]],
    over: str,
) -> Image.Image:
    """Draws one run.

    Args:
        headline: Text at the top.
        evaluations: At least one.
        curves: log‖r‖ of each branch at every evaluation.
        over: What the evaluations' places mean: "sigma", the flow "level", or the "fraction" of
            the trajectory.
    """
    canvas = Canvas(WIDTH, 1400)
    y = canvas.lines(24, 22, headline)
    if curves:
        y = _curves(canvas, y + 48, evaluations, curves, over) + 40
    times = [each.seconds for each in evaluations]
    unit, scale = ("s", 1.0) if fmean(times) >= 0.5 else ("ms", 1e3)
    heights = [seconds * scale for seconds in times]
    y = _bars(canvas, y + 48, evaluations, heights, f"time of each evaluation, in {unit}", "")
    errors = [100 * (each.error or 0) for each in evaluations]
    if any(each.error is not None for each in evaluations):
        title = "expected error of each predicted residual, in %"
        y = _bars(canvas, y + 56, evaluations, errors, title, VIOLET)
    y = _schedule(canvas, y + 56, evaluations)
    return canvas.image(_legend(canvas, y + 56, evaluations) + 14)


def _curves(
    canvas: Canvas,
    top: float,
    evaluations: Sequence[Evaluation],
    curves: Mapping[str, Sequence[float]],
    over: str,
) -> float:
    """Draws magnitude over the noise level, with a dot per evaluation; returns the bottom."""
    places = [each.place for each in evaluations]
    heights = [height for curve in curves.values() for height in curve]
    ends = (0.0, 1.0) if over == "fraction" else (max(places), min(places))
    plot = Plot(canvas, LEFT, top, RIGHT, top + 230, ends, around(heights))
    axis = {"sigma": "the noise level sigma", "level": "the flow level"}
    plot.frame(f"log of the residual's norm, over {axis.get(over, 'the trajectory')}")
    x = float(RIGHT)
    for (branch, curve), colour in zip(curves.items(), LINES, strict=False):
        points = sorted(zip(map(plot.x, places), map(plot.y, curve), strict=True))
        canvas.line(points, colour)
        if len(curves) > 1:
            x = canvas.text(x, top - 22, branch, colour, anchor="rm") - 20
    for curve in curves.values():
        for each, place, height in zip(evaluations, places, curve, strict=True):
            colour, radius = colour_of(each.reason), 4 if each.skipped else 7
            canvas.dot(plot.x(place), plot.y(height), radius, colour, filled=not each.skipped)
    return plot.bottom


def _bars(
    canvas: Canvas,
    top: float,
    evaluations: Sequence[Evaluation],
    heights: Sequence[float],
    title: str,
    colour: str,
) -> float:
    """Draws a bar per evaluation, in `colour` or that of its reason; returns the bottom."""
    highest = max(heights) or 1.0
    plot = Plot(canvas, LEFT, top, RIGHT, top + 130, _ends(evaluations), (0.0, 1.08 * highest))
    plot.frame(title, across=0)
    for (left, right), each, height in zip(
        _cells(plot, evaluations), evaluations, heights, strict=True
    ):
        if height > 0:
            canvas.box(left, plot.y(height), right, plot.bottom, colour or colour_of(each.reason))
    return plot.bottom


def _schedule(canvas: Canvas, top: float, evaluations: Sequence[Evaluation]) -> float:
    """Draws a cell per evaluation in the colour of its reason; returns the bottom."""
    plot = Plot(canvas, LEFT, top, RIGHT, top + 30, _ends(evaluations), (0.0, 1.0))
    plot.frame("schedule, by evaluation", across=min(6, len(evaluations)), up=0)
    for (left, right), each in zip(_cells(plot, evaluations), evaluations, strict=True):
        canvas.box(left, plot.top, right, plot.bottom, colour_of(each.reason))
    return plot.bottom


def _ends(evaluations: Sequence[Evaluation]) -> tuple[float, float]:
    return 0.5, len(evaluations) + 0.5


def _cells(plot: Plot, evaluations: Sequence[Evaluation]) -> list[tuple[float, float]]:
    """Left and right edges of each evaluation's cell."""
    gap = min(2.0, 0.2 * (plot.x(1) - plot.x(0)))
    numbers = range(1, len(evaluations) + 1)
    return [(plot.x(at - 0.5) + gap / 2, plot.x(at + 0.5) - gap / 2) for at in numbers]


def _legend(canvas: Canvas, y: float, evaluations: Sequence[Evaluation]) -> float:
    """Draws the meaning and count of each colour; returns the y of the next line."""
    counts = Counter(each.reason for each in evaluations)
    x = float(LEFT)
    for reason, count in counts.items():
        text = f"{reason.value} {count}"
        if x > LEFT and x + 26 + canvas.width_of(text) > RIGHT:
            x, y = float(LEFT), y + 1.5 * SIZE
        canvas.box(x, y - 9, x + 18, y + 9, colour_of(reason))
        x = canvas.text(x + 26, y, text) + 28
    return y + SIZE
