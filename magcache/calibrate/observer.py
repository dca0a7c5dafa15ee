"""Online correction: a run's own prediction errors beside those that its calibration expects.

Whenever an evaluation is computed although residuals are cached, its residual is also predicted,
on a small sample of entries, and compared. Both stay on the device until they are read where the
run waits anyway.
"""

from collections.abc import Hashable, Sequence
from typing import Protocol

import torch

from ..blocks import Residual
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
        self._unread: list[tuple[float, torch.Tensor]] = []

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
            self._unread.append((expected or 0.0, error.norm() / sample.norm()))
        kept = {at: known[at] for at in cached if at in known}
        self._samples[branch] = {**kept, sigma: sample}

    def tell(self) -> None:
        """Tells the decider the relative errors since the last time; waits for the device."""
        unread, self._unread = self._unread, []
        for expected, found in unread:
            self._decider.observe(expected, float(found))
