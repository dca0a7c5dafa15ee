"""What a run did and how images differ, as pictures.

Charts are drawn with matplotlib, cards for a node with Pillow alone.
"""

from .canvas import as_batch
from .charts import draw_comparison, draw_schedule, save
from .similarity import SSIM_WINDOW, psnr, similarity

__all__ = [
    "SSIM_WINDOW",
    "as_batch",
    "draw_comparison",
    "draw_schedule",
    "psnr",
    "save",
    "similarity",
]
