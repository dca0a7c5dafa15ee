"""Draws named rows of images side by side, with a title per column."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from .canvas import FAINT, Canvas

_EDGE, _GAP, _SIZE = 24, 8, 18
_SMALLEST = 96  # pixels; narrower images are enlarged by an integer factor


def draw_rows(rows: Mapping[str, Any], columns: Sequence[str] = ()) -> Image.Image:
    """Draws images (N, H, W, 3) in [0, 1], one row per name."""
    height, width = next(iter(rows.values())).shape[1:3]
    factor = max(1, -(-_SMALLEST // width))
    across, down = width * factor + _GAP, height * factor + _GAP
    scale = Canvas(1, 1, _SIZE)
    left = round(_EDGE + max(map(scale.width_of, rows)) + 16)
    most = max(len(images) for images in rows.values())
    canvas = Canvas(left + most * across - _GAP + _EDGE, 400 + len(rows) * down, _SIZE)
    top = max(
        (
            canvas.lines(left + place * across, _EDGE, title, FAINT, across - _GAP)
            for place, title in enumerate(columns)
        ),
        default=_EDGE,
    )
    for line, (name, images) in enumerate(rows.items()):
        y = round(top) + 8 + line * down
        canvas.text(left - 16, y + (down - _GAP) / 2, name, anchor="rm")
        for place, image in enumerate(images):
            pixels = (np.clip(np.asarray(image), 0, 1) * 255).round().astype(np.uint8)
            size = (width * factor, height * factor)
            shown = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
            canvas.paste(shown, left + place * across, y)
    return canvas.image(round(top) + 8 + len(rows) * down - _GAP + _EDGE)
