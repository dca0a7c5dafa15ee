"""Draws samplings, calibrations and image comparisons with Pillow."""

from .calibration import draw_calibration
from .canvas import as_batch, picture_of
from .comparison import draw_comparison
from .rows import draw_rows
from .schedule import draw_sampling, draw_text

__all__ = [
    "as_batch",
    "draw_calibration",
    "draw_comparison",
    "draw_rows",
    "draw_sampling",
    "draw_text",
    "picture_of",
]
