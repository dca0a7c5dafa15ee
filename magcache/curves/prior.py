"""The prior: Gram curves of trained models over the flow level.

Over the flow level the inner products of different models are much alike, so these curves also
serve for a model that was never measured. `python -m tools.prior` makes the file from the
project's own models.
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
"""The curves of each model, by the name of its folder."""


@cache
def members() -> Members:
    """The Gram curves of each model in the prior, over the flow level."""
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
    """The mean curve of several models: means of their correlations and of their log norms."""
    return {signal: _mean([member[signal] for member in members]) for signal in members[0]}


def _mean(curves: Sequence[GramCurve]) -> GramCurve:
    logs = np.mean([curve.norms.log_norms for curve in curves], 0)
    norms = MagnitudeCurve(curves[0].norms.positions, tuple(logs))
    return GramCurve(norms, np.mean([curve.correlations for curve in curves], 0))


def _square(rows: list[list[float]]) -> np.ndarray:
    """The full matrix, from its rows below the diagonal."""
    lower = np.zeros((len(rows), len(rows)))
    for place, row in enumerate(rows):
        lower[place, :place] = row
    return lower + lower.T + np.eye(len(rows))
