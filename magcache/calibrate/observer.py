"""Measures a run's prediction errors, to correct the expected ones and to learn from.

Whenever an evaluation is computed while residuals are cached, its residual is also predicted on a
small sample of entries, and the two are compared. The results stay on the device until the run
waits for it anyway.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Protocol

import torch

from ..blocks import Residual
from ..curves import Comparison
from .entries import Entries

_ENTRIES = 1 << 14  # entries sampled per residual; a mean over them is accurate to about 1 %


class Predictor(Protocol):
    """The part of `magcache.decide.Decider` that an observer needs."""

    def predict(
        self, curves: Sequence[str], sigma: float, held: Sequence[float]
    ) -> tuple[list[float], float | None]: ...

    def observe(self, expected: float, found: float) -> None: ...


class Observer:
    """Compares the computed residuals of one run with their predictions.

    Args:
        decider: Makes the predictions, and is told how good they were.
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
        """Compares a computed residual with its prediction, if it can be predicted.

        Args:
            branch: Key of the branch, including its shapes.
            sigma: The residual's noise level.
            residual: The computed residual.
            cached: σ of the residuals that it would have been predicted from.
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
        """Reports the relative errors since the last call to the decider; waits for the device."""
        unread, self._unread = self._unread, []
        for sigma, curve, expected, norms in unread:
            error, size = norms.tolist()
            found = error / size if size else math.nan
            self._decider.observe(expected, found)
            self._read.append(Comparison(sigma, curve, expected, found, size))

    def comparisons(self) -> list[Comparison]:
        """All comparisons of the run; waits for the device."""
        self.tell()
        return self._read
