"""Merges calibrations of one model that were made with different prompts."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..curves import CLOSE, Calibration, CalibrationError, Measurement, falling_places, same_levels

_OF_THE_GRID = ("steps", "shift", "sigmas", "sampler", "scheduler")  # taken from the first
_MOST_OUTSIDE = 0.25  # share of the first calibration's noise levels that another may lack


def merge(calibrations: Sequence[Calibration]) -> Calibration:
    """Averages calibrations of one model at the noise levels of the first.

    The others are resampled by interpolating their magnitude curves and with `GramCurve.between`.
    Magnitudes and ratios are averaged geometrically, correlations arithmetically, so the matrix
    stays positive semidefinite. Spreads and cosine distances depend on the step width, so only
    calibrations at the first one's noise levels contribute to them. The result has the branches
    that all have, and the settings on which all agree. If the weights differ, its identity has no
    hash of the weights.

    Args:
        calibrations: At least one.

    Raises:
        CalibrationError: They are of different models or experts, share no branch or no range of
            noise levels, or only some have Gram curves.
    """
    if not calibrations:
        raise CalibrationError("there is nothing to merge")
    first, *others = calibrations
    for other in others:
        _check_alike(first, other)
    shared = [b for b in first.branches if all(b in other.branches for other in others)]
    if not shared:
        names = "; ".join(f"{c.name}: {', '.join(c.branches)}" for c in calibrations)
        raise CalibrationError(f"these calibrations have no branch in common: {names}")
    prompts = sum(c.prompts for c in calibrations)
    return replace(
        first,
        branches={branch: _merged(branch, calibrations) for branch in shared},
        settings={**_agreed([c.settings for c in calibrations]), "prompts": prompts},
        identity=_identity(calibrations),
    )


def _check_alike(first: Calibration, other: Calibration) -> None:
    both = f"{first.name} and {other.name}"
    if first.model != other.model:
        raise CalibrationError(
            f"{both} cannot be merged: they are of different models, {first.model} and "
            f"{other.model}"
        )
    mine, its = first.known_as(), other.known_as()
    if mine and its and not mine.same_architecture(its):
        raise CalibrationError(
            f"{both} cannot be merged: they are of {first.model}s of different sizes "
            f"({mine.parameters:,} and {its.parameters:,} parameters)"
        )
    switches = first.switch_at, other.switch_at
    if None in switches and switches != (None, None):
        raise CalibrationError(f"{both} cannot be merged: only one of them has two experts")
    if switches != (None, None) and not math.isclose(*switches, rel_tol=CLOSE):  # type: ignore[arg-type]
        raise CalibrationError(
            f"{both} cannot be merged: they switch experts at different noise levels, "
            f"{switches[0]} and {switches[1]}"
        )


def _merged(branch: str, calibrations: Sequence[Calibration]) -> Measurement:
    first = calibrations[0].branches[branch]
    kept = falling_places(first.sigmas)
    sigmas = [first.sigmas[place] for place in kept]
    for other in calibrations[1:]:
        _check_range(branch, sigmas, calibrations[0], other)
    ratios = [[ratio or 1.0 for ratio in c.curves[branch].ratios(sigmas)] for c in calibrations]
    alike = [m for c in calibrations if _on(sigmas, m := c.branches[branch])]
    norms, correlations = _merged_grams(branch, calibrations, sigmas)
    return Measurement(
        sigmas=sigmas,
        ratios=np.exp(np.log(ratios).mean(0)).tolist(),
        spreads=_mean(alike, "spreads"),
        cosine_distances=_mean(alike, "cosine_distances"),
        norms=norms,
        correlations=correlations,
    )


def _check_range(
    branch: str, sigmas: Sequence[float], first: Calibration, other: Calibration
) -> None:
    curve = other.curves[branch]
    outside = sum(not curve.covers(sigma) for sigma in sigmas)
    if outside > _MOST_OUTSIDE * len(sigmas):
        raise CalibrationError(
            f"{other.name} covers noise levels {curve.positions[0]:.4g} to "
            f"{curve.positions[-1]:.4g}, but {first.name} {sigmas[0]:.4g} to {sigmas[-1]:.4g}: "
            "merge calibrations of similar ranges, the smallest one first"
        )


def _merged_grams(
    branch: str, calibrations: Sequence[Calibration], sigmas: Sequence[float]
) -> tuple[list[float], list[list[float]]]:
    grams = [c.grams.get(branch) for c in calibrations]
    if all(gram is None for gram in grams):
        return [], []
    lacking = [c.name for c, gram in zip(calibrations, grams, strict=True) if gram is None]
    if lacking:
        raise CalibrationError(
            f"{', '.join(lacking)} has no Gram curve of {branch}, but others do: measure it again "
            "or leave it out"
        )
    logs, matrices = [], []
    for gram in grams:
        assert gram is not None
        logs.append([gram.norms.log_norm(sigma) for sigma in sigmas])
        matrix = np.zeros((len(sigmas), len(sigmas)))
        parts = np.array([gram.norms.part_at(sigma) for sigma in sigmas])
        for part in np.unique(parts):  # residuals of one expert say nothing about the other's
            places = np.flatnonzero(parts == part)
            own = gram.part(int(part)).between(np.asarray(sigmas)[places])
            matrix[np.ix_(places, places)] = own
        scale = np.sqrt(np.diag(matrix))
        matrices.append(matrix / scale / scale[:, None])
    mean = np.clip(np.mean(matrices, 0), -1, 1)
    rows = [np.round(row[:place], 7).tolist() for place, row in enumerate(mean)]
    return np.exp(np.mean(logs, 0)).tolist(), rows


def _on(sigmas: Sequence[float], measured: Measurement) -> bool:
    """Whether `measured` has these noise levels."""
    own = [measured.sigmas[place] for place in falling_places(measured.sigmas)]
    return same_levels(own, sigmas)


def _mean(measured: Sequence[Measurement], name: str) -> list[float]:
    kept = [[getattr(m, name)[place] for place in falling_places(m.sigmas)] for m in measured]
    return np.mean(kept, 0).tolist()


def _agreed(settings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first, *others = settings
    return {
        name: value
        for name, value in first.items()
        if name in _OF_THE_GRID or all(other.get(name) == value for other in others)
    }


def _identity(calibrations: Sequence[Calibration]) -> dict[str, Any] | None:
    """The identity of the first, without the hash of its weights unless all have the same."""
    known = [c.known_as() for c in calibrations]
    first = calibrations[0].identity
    if first is None or any(k is None for k in known):
        return None
    alike = len({(k.weights, k.patches) for k in known if k}) == 1
    return first if alike else {**first, "weights": None}
