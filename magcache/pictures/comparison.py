"""The picture of a comparison: A, B, their differences, and the figures of every frame."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..images import Compared
from .canvas import BLUE, FAINT, ORANGE, RED, Canvas, Plot, around, draw_scale, picture_of, shaded

WIDTH, MARGIN, GAP = 1536, 30, 18
_SIZE = 40  # of text; the node shows the picture at about a quarter of its width
_TALLEST = 640
_SCALES = (0.05, 0.1, 0.25, 0.5, 1.0)  # ends of the colour scale


def draw_comparison(
    a: torch.Tensor, b: torch.Tensor, compared: Compared, headline: str
) -> Image.Image:
    """Draws two frames (H, W, C) that differ most, their FLIP errors, and curves of all frames."""
    canvas = Canvas(WIDTH, 2400, _SIZE)
    frames = len(compared.flips)
    y = canvas.lines(MARGIN, 28, headline)
    if compared.equal:
        y = canvas.lines(MARGIN, y, "A and B are equal", FAINT)
    elif frames > 1:
        shown = f"frame {compared.worst + 1} of {frames}, which differs most"
        y = canvas.lines(MARGIN, y, shown, FAINT)
    errors = compared.errors.numpy()
    scale = next(s for s in _SCALES if s >= min(1.0, float(np.nan_to_num(errors).max())))
    pictures = (picture_of(a), picture_of(b), shaded(errors / scale))
    width = (WIDTH - 2 * MARGIN - 2 * GAP) // 3
    height = min(_TALLEST, round(width * pictures[0].height / pictures[0].width))
    for place, (title, picture) in enumerate(zip(("A", "B", "FLIP"), pictures, strict=True)):
        x = MARGIN + place * (width + GAP)
        behind = canvas.text(x, y + 30, title, FAINT)
        canvas.paste(_fitted(picture, width, height), x, round(y + 60))
        if title == "FLIP":
            draw_scale(canvas, y + 30, behind + 30, x + width, "0", f"{scale:g}")
    y += 60 + height
    if frames > 1 and not compared.equal:
        y = _curve(canvas, y + 90, compared.flips, "FLIP, by frame", ORANGE, compared.worst)
        y = _curve(canvas, y + 130, compared.psnrs, "PSNR in dB, by frame", BLUE, compared.worst)
        y += 50
    return canvas.image(y + MARGIN)


def _fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Scales a picture to fit. Enlarged pixels stay sharp."""
    factor = min(width / picture.width, height / picture.height)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    return picture.resize(size, how)


def _curve(
    canvas: Canvas, top: float, values: Sequence[float], title: str, colour: str, worst: int
) -> float:
    """Draws one value per frame, without infinite ones; returns the bottom of the axes."""
    known = [(at + 1, value) for at, value in enumerate(values) if math.isfinite(value)]
    heights = [value for _, value in known] or [0.0]
    ys = around(heights, 0.5 * abs(heights[0]) or 1.0)
    plot = Plot(canvas, 170, top, WIDTH - MARGIN, top + 170, (1, len(values)), ys)
    plot.frame(title, across=min(6, len(values) - 1), up=3)
    canvas.line([(plot.x(worst + 1), plot.top), (plot.x(worst + 1), plot.bottom)], RED, 3)
    points = [(plot.x(at), plot.y(value)) for at, value in known]
    if len(points) > 1:
        canvas.line(points, colour, 4)
    for point in points if len(points) < 60 else ():
        canvas.dot(*point, 6, colour)
    return plot.bottom
