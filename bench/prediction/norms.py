"""Compares published magnitude lists with the norms of the prior and of the small models.

A list gives γ, the ratio of the residual's norms between evaluations. The figures are mean |log γ|
of a list, and the mean error of the ratios from other curves at the same flow levels.
"""

import numpy as np

from bench.kept import Kept
from magcache.curves import MagnitudeCurve, presets, prior
from tools.tables import table

from .forecast import measured
from .lab import MODELS

SHIFT = 3.0  # assumed for lists without noise levels
FAMILY = "wan"  # the small video model has this architecture


def tables() -> dict[str, str]:
    kept = Kept("norms")
    found = {name: kept.of(name, lambda name=name: {"of": of(name)}) for name in names()}
    groups = {
        "Wan": [each["of"] for name, each in found.items() if name.startswith(FAMILY)],
        "others": [each["of"] for name, each in found.items() if not name.startswith(FAMILY)],
    }
    rows = [
        [f"{group} ({len(lists)})", *(f"{each:.3f}" for each in np.mean(lists, 0))]
        for group, lists in groups.items()
    ]
    head = ["lists", "change a step", "off by the prior", *(f"by {name}" for name in MODELS)]
    return {"norms": table(head, rows, len(head) - 1)}


def names() -> list[str]:
    """The published lists."""
    return [name for name in presets.names() if name not in MODELS]


def of(name: str) -> list[float]:
    """How much a list's norm changes in a step, and how far the others are off; as logarithms."""
    preset = presets.load(name)
    curve = next(iter(preset.curves.values()))
    levels = curve.positions
    if curve.over == "fraction":
        levels = preset.trajectory(len(levels), SHIFT).sigmas
    logs = np.diff(curve.log_norms)
    outputs = prior.mean([*prior.members().values()])["mean"].norms
    others = [outputs, *(measured(model, True)["mean"].norms for model in MODELS)]
    errors = [logs, *(logs - _log_ratios(other, levels) for other in others)]
    return [round(float(np.abs(each).mean()), 4) for each in errors]


def _log_ratios(curve: MagnitudeCurve, levels: tuple[float, ...]) -> np.ndarray:
    return np.diff([curve.log_norm(level) for level in levels])
