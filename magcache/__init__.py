"""MagCache: diffusion transformers sample faster by predicting the residual of their blocks."""

from typing import Any

from .curves import Calibration, CalibrationError
from .decide import Rule, Schedule, plan
from .report import Report

__version__ = "0.1.0"
__all__ = [
    "Calibration",
    "CalibrationError",
    "Report",
    "Rule",
    "Schedule",
    "apply",
    "plan",
    "remove",
]


def __getattr__(name: str) -> Any:
    """`apply` and `remove` import diffusers, which the core does not need."""
    if name in ("apply", "remove"):
        from .hosts import diffusers

        return getattr(diffusers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
