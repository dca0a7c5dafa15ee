"""What a run did and how images differ, as pictures.

Charts are drawn with matplotlib, cards for a node with Pillow alone.
"""

from .canvas import as_batch
from .charts import draw_comparison, draw_schedule, save

__all__ = [
    "as_batch",
    "draw_comparison",
    "draw_schedule",
    "save",
]
