"""MagCache makes diffusion models sample faster by predicting most evaluations."""

import re
from pathlib import Path
from typing import Any

from .curves import Calibration, CalibrationError
from .decide import Course, Rule, Schedule, Target, Window, decider_for
from .report import Report


def _version() -> str:
    """The version of the running code; pyproject.toml is the only place that states it.

    A checkout or node pack has that file next to the package. It takes precedence over the
    metadata of an installed copy, which may be of another version.
    """
    beside = Path(__file__).parents[1] / "pyproject.toml"
    text = beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else ""
    if ours := re.search(r'^name = "magcache"\nversion = "(.+)"', text, re.MULTILINE):
        return ours[1]
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("magcache")
    except PackageNotFoundError:
        return "of unknown version"


__version__ = _version()
__all__ = [
    "Calibration",
    "CalibrationError",
    "Course",
    "Report",
    "Rule",
    "Schedule",
    "Target",
    "Window",
    "apply",
    "decider_for",
    "remove",
]


def __getattr__(name: str) -> Any:
    """Loads `apply` and `remove` on first use: they import diffusers, the core does not."""
    if name in ("apply", "remove"):
        from .hosts import diffusers

        return getattr(diffusers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
