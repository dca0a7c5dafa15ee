"""Several processes that sample one thing together: they decide alike, and pool what they measure.

`peers` are the processes and their notes, `pooled` is a measurement of all of them.
"""

from .peers import ParallelError, Peers, default_store, described
from .pooled import PooledCalibrator

__all__ = [
    "ParallelError",
    "Peers",
    "PooledCalibrator",
    "default_store",
    "described",
]
