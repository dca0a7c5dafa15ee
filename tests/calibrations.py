"""Calibrations of models that are not there, made by formula."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from magcache.curves import Calibration, Measurement
from magcache.curves.gram import GramCurve
from magcache.curves.magnitude import MagnitudeCurve, shifted_sigmas

IDENTITY = {"model": "Toy", "parameters": 7, "shapes": "aaaa", "weights": "bbbb", "patches": ""}


def measurement(
    sigmas: Sequence[float], *, turn: float = 1.0, slope: float = 1.0, spread: float = 0.1
) -> Measurement:
    """Residuals of norm exp(slope·σ) that turn in a plane, by `turn` from σ 0 to 1."""
    logs = [slope * sigma for sigma in sigmas]
    ratios = [1.0] + [math.exp(b - a) for a, b in itertools.pairwise(logs)]
    angles = turn * np.array(sigmas)
    matrix = np.cos(angles - angles[:, None])
    return Measurement(
        list(sigmas),
        ratios,
        [0.0] + [spread] * (len(sigmas) - 1),
        [0.0] + [spread / 10] * (len(sigmas) - 1),
        [math.exp(log) for log in logs],
        [row[:place].tolist() for place, row in enumerate(matrix)],
    )


def calibration(steps: int = 10, shift: float = 1.0, **changes: Any) -> Calibration:
    """Of the model `IDENTITY`; `changes` are a Calibration's fields, `settings` go beside steps."""
    own = {"steps": steps, "shift": shift, "sampler": "euler", "cfg": 3.0}
    settings = {**own, **changes.pop("settings", {})}
    branches = {"cond": measurement(shifted_sigmas(steps, shift))}
    whole = {"model": "Toy", "branches": branches, "settings": settings, "identity": IDENTITY}
    return Calibration(**{**whole, **changes})


def partial(levels: int, low: float = 0.0, **changes: Any) -> Calibration:
    """Of so many noise levels from 1 down towards `low`, said to be 50 steps."""
    sigmas = [low + (1 - low) * (1 - level / levels) for level in range(levels)]
    branches = {"cond": measurement(sigmas)}
    return calibration(**{"branches": branches, "settings": {"steps": 50}, **changes})


def random_gram(steps: int, seed: int) -> GramCurve:
    """A smooth random walk of residuals."""
    drawn = np.random.default_rng(seed).normal(size=(steps, 40)).cumsum(0).cumsum(0) + 5
    norms = np.linalg.norm(drawn, axis=1)
    unit = drawn / norms[:, None]
    curve = MagnitudeCurve(shifted_sigmas(steps), tuple(np.log(norms)))
    return GramCurve(curve, np.clip(unit @ unit.T, -1, 1))


def ratios_of(preset: Calibration) -> dict[str, list[float]]:
    """The lists of a preset, a branch."""
    return {branch: measured.ratios for branch, measured in preset.branches.items()}


def sigmas_of(preset: Calibration) -> tuple[float, ...] | None:
    """The noise levels of its lists, or None where they are unknown."""
    return tuple(next(iter(preset.branches.values())).sigmas) or None


def switch_of(preset: Calibration) -> tuple[int, float] | None:
    """Index and σ of the change of experts, or None."""
    curve = next(iter(preset.curves.values()))
    return (curve.switch[0], curve.switch_at[0]) if curve.switch else None


def steps_of(preset: Calibration) -> int:
    """How long its lists are."""
    return preset.settings["steps"]
