"""MagCache: diffusion transformers sample faster by predicting the residual of their blocks."""

from typing import Any

from magcache.calibration import Calibration, CalibrationError
from magcache.plan import Schedule, plan
from magcache.report import Report
from magcache.rule import Rule

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
        from magcache.hosts import diffusers

        return getattr(diffusers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
