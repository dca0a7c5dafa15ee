"""One sampling in several processes: they reach the same decisions and pool measurements.

`peers` has the processes and the notes that they exchange, `pooled` their joint measurement.
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
