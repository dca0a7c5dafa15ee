"""Comparing calibrations: how near one is to a run, and whether it may replace another."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .calibration import Calibration
from .magnitude import MagnitudeCurve

_OUTSIDE = 4.0  # a run wholly outside the range is as far as one 16 times finer
_NO_GRAM = 8.0  # it cannot predict or plan at all
_BETWEEN = 0.5  # of noise levels in the middle between two calibrated ones
_CFG, _LATENT, _SAMPLER = 0.5, 0.1, 0.1  # a factor of two in CFG or size; another sampler
_SAME = 1e-3  # ends of two σ ranges are one within this share


def distance(
    calibration: Calibration, sigmas: Sequence[float], settings: Mapping[str, Any]
) -> float:
    """How far apart they are: 0 for the same, about 1 for half as many noise levels.

    Steps and shift count through the noise levels only, which are what a curve is made of.

    Args:
        calibration: One of the run's model.
        sigmas: The run's noise levels, falling; none leaves them out of account.
        settings: The run's "sampler", "cfg", "latent", as far as they are known.
    """
    far = 0.0 if len(calibration.grams) == len(calibration.branches) else _NO_GRAM
    wanted = np.array([sigma for sigma in sigmas if sigma > 0])
    if len(wanted):
        curve = next(iter(calibration.curves.values()))
        outside = np.mean([not curve.covers(sigma) for sigma in wanted])
        rising = np.array(curve.positions[::-1])
        far += _OUTSIDE * outside + _coarser(rising, wanted) + _BETWEEN * _off(rising, wanted)
    made = calibration.settings
    far += _CFG * _octaves(made.get("cfg"), settings.get("cfg"))
    far += _LATENT * _octaves(_size(made.get("latent")), _size(settings.get("latent")))
    sampler = settings.get("sampler")
    far += _SAMPLER * (sampler is not None and made.get("sampler") != sampler)
    return round(float(far), 3)  # two hosts round noise levels differently


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


def _coarser(rising: np.ndarray, wanted: np.ndarray) -> float:
    """Mean over the run's steps of log2(calibrated step / run's step) where that is above 0."""
    held = -np.diff(_place(rising, wanted))  # calibrated steps in each of the run's
    inside = held > 1e-6
    return float(np.maximum(-np.log2(held[inside]), 0).mean()) if inside.any() else 0.0


def _off(rising: np.ndarray, wanted: np.ndarray) -> float:
    """How far noise levels are from calibrated ones: 0 at one, 1 in the middle of two."""
    place = _place(rising, wanted)
    return float(2 * np.abs(place - place.round()).mean())


def _place(rising: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where noise levels lie among the calibrated ones, as an index with a fraction."""
    return np.interp(wanted, rising, np.arange(len(rising), dtype=float))


def _octaves(one: Any, other: Any) -> float:
    if not (isinstance(one, int | float) and isinstance(other, int | float)):
        return 0.0
    return abs(math.log2(one / other)) if one > 0 and other > 0 else 0.0


def _size(latent: Any) -> float | None:
    return float(np.prod(latent)) if isinstance(latent, list | tuple) and latent else None
