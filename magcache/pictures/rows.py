"""Draws named rows of images side by side, with a title per column."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from .canvas import FAINT, TEXT, Canvas, picture_of

_EDGE, _GAP, _SIZE = 24, 8, 18
_SMALLEST = 96  # pixels; narrower images are enlarged by an integer factor


def draw_rows(rows: Mapping[str, Any], columns: Sequence[str] = ()) -> Image.Image:
    """Draws a row of pictures, or of images (H, W, 3) in [0, 1], for each name.

    All are of one size. A name's further lines are fainter.
    """
    drawn = {
        name: [each if isinstance(each, Image.Image) else picture_of(each) for each in images]
        for name, images in rows.items()
    }
    width, height = next(iter(drawn.values()))[0].size
    factor = max(1, -(-_SMALLEST // width))
    across, down = width * factor + _GAP, height * factor + _GAP
    scale = Canvas(1, 1, _SIZE)
    lines = [line for name in rows for line in name.splitlines()]
    left = round(_EDGE + max(map(scale.width_of, lines)) + 16)
    most = max(map(len, drawn.values()))
    canvas = Canvas(left + most * across - _GAP + _EDGE, 400 + len(rows) * down, _SIZE)
    top = max(
        (
            canvas.lines(left + place * across, _EDGE, title, FAINT, across - _GAP)
            for place, title in enumerate(columns)
        ),
        default=_EDGE,
    )
    for line, (name, images) in enumerate(drawn.items()):
        y = round(top) + 8 + line * down
        _write(canvas, left - 16, y + (down - _GAP) / 2, name)
        for place, image in enumerate(images):
            shown = image.resize((width * factor, height * factor), Image.Resampling.NEAREST)
            canvas.paste(shown, left + place * across, y)
    return canvas.image(round(top) + 8 + len(rows) * down - _GAP + _EDGE)


def _write(canvas: Canvas, right: float, middle: float, name: str) -> None:
    lines = name.splitlines()
    apart = 1.35 * canvas.size
    for at, line in enumerate(lines):
        y = middle + (at - (len(lines) - 1) / 2) * apart
        canvas.text(right, y, line, FAINT if at else TEXT, "rm")
