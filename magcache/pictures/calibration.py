"""The picture of a calibration: magnitude curves, and correlations of the residuals."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from ..curves import GramCurve, MagnitudeCurve
from .canvas import LINES, Canvas, Plot, around, draw_scale, shaded

WIDTH, LEFT, RIGHT = 860, 92, 836
SIDE, GAP = 310, 124  # side of a correlation matrix, and gap between two


def draw_calibration(
    title: str, curves: Mapping[str, MagnitudeCurve], grams: Mapping[str, GramCurve]
) -> Image.Image:
    """Draws the curves over the noise level, a line per expert, and a matrix per Gram curve."""
    canvas = Canvas(WIDTH, 1600)
    y = _curves(canvas, canvas.lines(24, 22, title) + 48, curves)
    lowest = min((gram.correlations.min() for gram in grams.values()), default=0.0)
    for place, (branch, gram) in enumerate(grams.items()):
        left = LEFT + place % 2 * (SIDE + GAP)
        top = y + 110 if place % 2 == 0 else y - SIDE
        y = _square(canvas, left, top, f"{branch}: correlations", gram, lowest)
    if grams:
        y += 70
        draw_scale(canvas, y, LEFT, LEFT + SIDE + GAP, f"{lowest:.2f}", "1")
    return canvas.image(y + 50)


def _curves(canvas: Canvas, top: float, curves: Mapping[str, MagnitudeCurve]) -> float:
    places = [at for curve in curves.values() for at in curve.positions]
    heights = [height for curve in curves.values() for height in curve.log_norms]
    ends = max(places), min(places)
    plot = Plot(canvas, LEFT, top, RIGHT, top + 260, ends, around(heights))
    plot.frame("log of the residual's norm, over the noise level sigma")
    x = float(RIGHT)
    for (branch, curve), colour in zip(curves.items(), LINES, strict=False):
        for start, stop in map(curve.span, range(curve.parts)):
            measured = zip(curve.positions[start:stop], curve.log_norms[start:stop], strict=True)
            points = [(plot.x(sigma), plot.y(height)) for sigma, height in measured]
            canvas.line(points, colour)
            for point in points:
                canvas.dot(*point, 3, colour)
        x = canvas.text(x, top - 22, branch, colour, anchor="rm") - 20
    return plot.bottom


def _square(
    canvas: Canvas, left: float, top: float, title: str, gram: GramCurve, lowest: float
) -> float:
    """Correlations over both noise levels; each pixel shows the nearest measured value."""
    levels = np.array(gram.norms.positions)
    ends = (float(levels.max()), float(levels.min()))
    plot = Plot(canvas, left, top, left + SIDE, top + SIDE, ends, (ends[1], ends[0]))
    plot.frame(title, across=4, up=4)
    pixels = np.linspace(*ends, SIDE)
    nearest = np.abs(pixels[:, None] - levels).argmin(1)
    shown = gram.correlations[np.ix_(nearest, nearest)]
    canvas.paste(shaded((shown - lowest) / ((1 - lowest) or 1)), round(left), round(top))
    return plot.bottom
