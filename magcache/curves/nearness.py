"""Compares calibrations: how close one is to a run, and whether it may replace another."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .calibration import Calibration
from .magnitude import MagnitudeCurve

_SAME = 1e-3  # of a σ range; ends of two ranges this close are the same


def distance(calibration: Calibration, sigmas: Sequence[float]) -> float:
    """Mean distance of a run's noise levels from the nearest calibrated ones, in steps of the run.

    Levels beyond the calibrated range count in the same way. The larger the distance, the more a
    plan loses (`python -m bench.prediction carried`).

    Args:
        calibration: A calibration of the run's model.
        sigmas: The run's noise levels, falling; without any, the distance is 0.
    """
    run = np.array([sigma for sigma in sigmas if sigma > 0])
    if not len(run):
        return 0.0
    known = np.array(next(iter(calibration.curves.values())).positions)
    steps = -np.diff([*run, 0.0])
    gaps = np.abs(run[:, None] - known).min(1)
    apart = steps > 0  # second-order samplers repeat levels
    return round(float((gaps[apart] / steps[apart]).mean()), 3)  # hosts round levels differently


def order(calibration: Calibration, far: float, settings: Mapping[str, Any]) -> tuple[float, ...]:
    """Sort key of a model's calibrations, best first.

    Those with Gram curves come first. Then the criteria are: `distance` in whole steps; closeness
    of CFG, size and sampler; the exact `distance`; and the number of prompts.

    Args:
        calibration: A calibration of the run's model.
        far: Its `distance`.
        settings: The run's "sampler", "cfg" and "latent", as far as they are known.
    """
    made = calibration.settings
    sampler = settings.get("sampler")
    return (
        len(calibration.grams) < len(calibration.branches),
        round(far),
        _octaves(made.get("cfg"), settings.get("cfg")),
        _octaves(_size(made.get("latent")), _size(settings.get("latent"))),
        sampler is not None and made.get("sampler") != sampler,
        far,
        -calibration.prompts,
    )


def at_least_as_good(new: Calibration, old: Calibration) -> bool:
    """Whether nothing is lost if `new` replaces `old`.

    That is, if `new` has every branch, covers at least the same range with at least as many noise
    levels, was measured with at least as many prompts, and has Gram curves if `old` has them.
    """
    if new.prompts < old.prompts:
        return False
    return all(
        branch in new.curves
        and (branch in new.grams or branch not in old.grams)
        and _covers(new.curves[branch], curve)
        for branch, curve in old.curves.items()
    )


def _covers(new: MagnitudeCurve, old: MagnitudeCurve) -> bool:
    slack = _SAME * (old.positions[0] - old.positions[-1])
    wide = new.positions[0] + slack >= old.positions[0]
    deep = new.positions[-1] - slack <= old.positions[-1]
    return wide and deep and len(new.positions) >= len(old.positions)


def _octaves(one: Any, other: Any) -> float:
    if not (isinstance(one, int | float) and isinstance(other, int | float)):
        return 0.0
    return abs(math.log2(one / other)) if one > 0 and other > 0 else 0.0


def _size(latent: Any) -> float | None:
    return float(math.prod(latent)) if isinstance(latent, list | tuple) and latent else None
