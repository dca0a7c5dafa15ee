"""Measuring a model: its curves in one run, several runs merged, and what tells it from others.

What a run computes is measured on a small sample of entries, on the side.
"""

from .calibrator import OVERFLOWS, SAMPLED, Calibrator
from .entries import size_of
from .identity import identity_of, sampled_hash
from .merge import merge
from .observer import Observer
from .sweep import sweep

__all__ = [
    "OVERFLOWS",
    "SAMPLED",
    "Calibrator",
    "Observer",
    "identity_of",
    "merge",
    "sampled_hash",
    "size_of",
    "sweep",
]
