"""The prior: how the outputs of trained models go over the flow level.

Different models' inner products are much alike over the flow level, so they serve for a model
that was never measured. `python -m tools.prior` makes the file from the project's own models.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from .gram import GramCurve
from .magnitude import MagnitudeCurve

PATH = Path(__file__).with_name("prior.json")

Grams = Mapping[str, GramCurve]
"""The Gram curve of each signal: "mean" and "difference" of the two branches' velocities."""
Members = Mapping[str, Grams]
"""The curves of each model, by its folder's name."""


@cache
def members() -> Members:
    """The Gram curves of each model of the prior, over the flow level."""
    held = json.loads(PATH.read_text(encoding="utf-8"))
    levels = tuple(held["levels"])
    return {
        name: {
            signal: GramCurve(
                MagnitudeCurve(levels, tuple(told["log_norms"])), _square(told["correlations"])
            )
            for signal, told in signals.items()
        }
        for name, signals in held["members"].items()
    }


def mean(members: Sequence[Grams]) -> Grams:
    """The mean curve of several models: of their correlations, and of their log norms."""
    return {signal: _mean([member[signal] for member in members]) for signal in members[0]}


def _mean(curves: Sequence[GramCurve]) -> GramCurve:
    logs = np.mean([curve.norms.log_norms for curve in curves], 0)
    norms = MagnitudeCurve(curves[0].norms.positions, tuple(logs))
    return GramCurve(norms, np.mean([curve.correlations for curve in curves], 0))


def _square(rows: list[list[float]]) -> np.ndarray:
    """The whole matrix, from its part below the diagonal."""
    lower = np.zeros((len(rows), len(rows)))
    for place, row in enumerate(rows):
        lower[place, :place] = row
    return lower + lower.T + np.eye(len(rows))
