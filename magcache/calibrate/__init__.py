"""Measures a model: its curves from one run, several runs merged, and its identity.

Measurements use a small sample of the entries of what a run computes anyway.
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
