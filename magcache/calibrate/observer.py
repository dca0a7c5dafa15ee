"""A run's own prediction errors beside the expected ones, to correct it and to learn from.

Whenever an evaluation is computed although residuals are cached, its residual is also predicted,
on a small sample of entries, and compared. Both stay on the device until they are read where the
run waits anyway.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Protocol

import torch

from ..blocks import Residual
from ..curves import Comparison
from .entries import Entries

_ENTRIES = 1 << 14  # of a residual; an error is a mean over them, good to about 1 %


class Predictor(Protocol):
    """A decider that is to be told how good its predictions are, see `magcache.decide.Decider`."""

    def predict(
        self, curves: Sequence[str], sigma: float, held: Sequence[float]
    ) -> tuple[list[float], float | None]: ...

    def observe(self, expected: float, found: float) -> None: ...


class Observer:
    """Compares the computed residuals of one run with their predictions.

    Args:
        decider: Predicts, and is told how good the predictions were.
    """

    def __init__(self, decider: Predictor) -> None:
        self._decider = decider
        self._entries = Entries(_ENTRIES)
        self._samples: dict[Hashable, dict[float, torch.Tensor]] = {}
        self._unread: list[tuple[float, str, float, torch.Tensor]] = []
        self._read: list[Comparison] = []

    def see(
        self,
        branch: Hashable,
        sigma: float,
        residual: Residual,
        cached: Sequence[float],
        curves: Sequence[str],
    ) -> None:
        """Compares a computed residual with its prediction, where it can be predicted.

        Args:
            branch: The branch and shapes.
            sigma: The residual's noise level.
            residual: The computed one.
            cached: σ of the residuals it would have been predicted from.
            curves: Names of the curves that the branch follows.
        """
        sample = self._entries.of(branch, residual).float()
        known = self._samples.get(branch, {})
        if cached and all(at in known for at in cached):
            factors, expected = self._decider.predict(curves, sigma, cached)
            error = sample.clone()
            for at, factor in zip(cached, factors, strict=True):
                error.sub_(known[at], alpha=factor)
            norms = torch.stack([error.norm(), sample.norm()])
            self._unread.append((sigma, curves[0], expected or 0.0, norms))
        kept = {at: known[at] for at in cached if at in known}
        self._samples[branch] = {**kept, sigma: sample}

    def tell(self) -> None:
        """Tells the decider the relative errors since the last time; waits for the device."""
        unread, self._unread = self._unread, []
        for sigma, curve, expected, norms in unread:
            error, size = norms.tolist()
            found = error / size if size else math.nan
            self._decider.observe(expected, found)
            self._read.append(Comparison(sigma, curve, expected, found, size))

    def comparisons(self) -> list[Comparison]:
        """All of the run; waits for the device."""
        self.tell()
        return self._read
