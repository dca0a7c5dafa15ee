"""Comparing calibrations: how near one is to a run, and whether it may replace another."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .calibration import Calibration
from .magnitude import MagnitudeCurve

_SAME = 1e-3  # ends of two σ ranges are one within this share


def distance(calibration: Calibration, sigmas: Sequence[float]) -> float:
    """How far a run's noise levels lie from calibrated ones: the mean, in steps of the run.

    0 where all of them were calibrated, 0.5 where every second one was; levels beyond the
    calibration's range count in the same way. What a plan loses grows with it
    (`python -m bench.prediction.carried`).

    Args:
        calibration: One of the run's model.
        sigmas: The run's noise levels, falling; without any, all calibrations are at 0.
    """
    run = np.array([sigma for sigma in sigmas if sigma > 0])
    if not len(run):
        return 0.0
    known = np.array(next(iter(calibration.curves.values())).positions)
    steps = -np.diff([*run, 0.0])
    gaps = np.abs(run[:, None] - known).min(1)
    apart = steps > 0  # samplers of second order repeat levels
    return round(float((gaps[apart] / steps[apart]).mean()), 3)  # hosts round levels differently


def order(calibration: Calibration, far: float, settings: Mapping[str, Any]) -> tuple[float, ...]:
    """What calibrations of one model are sorted by, the best first.

    Those with Gram curves first; then by `distance` in whole steps; then those whose CFG, size
    and sampler are nearer; then by `distance` itself, then those from more prompts.

    Args:
        calibration: One of the run's model.
        far: Its `distance`.
        settings: The run's "sampler", "cfg", "latent", as far as they are known.
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
    """Whether nothing is lost where `new` takes the place of `old`.

    It has every branch, at no fewer noise levels over no smaller a range, is merged from no fewer
    prompts, and has Gram curves if the old one has.
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
