"""Mending: a computed evaluation puts right what the skipped ones before it did wrong.

Behind a gap its residuals are known better than when they were predicted: they now lie between
computed ones. Euler's method moves the sample by Δσ times the model's output, so the gap has
moved it wrongly by Σ Δσᵢ·(better - predicted). The evaluation behind it shows its head a residual
that makes up for this in its own step, at the cost of one sum of tensors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..curves import same_levels

Predict = Callable[[Sequence[float], float], Sequence[float]]
"""The weights of the residuals at some σ, in predicting the one at another."""

_SHORT = 1 / 14  # of the run's evaluations: a gap up to here is put right as a whole
_LEAST = 0.05  # a smaller share is not worth the memory


@dataclass(frozen=True)
class Mender:
    """Knows by how much a sampling has gone wrong whose outputs move it by Δσ times themselves.

    Attributes:
        sigmas: σ of the run's evaluations, falling, and behind them the one it ends at.
    """

    sigmas: Sequence[float]

    def factors(
        self,
        predict: Predict,
        cached: Sequence[float],
        gap: Sequence[float],
        sigma: float,
        following: int | None = None,
    ) -> list[float] | None:
        """What to add to a computed residual to put the gap before it right.

        Args:
            predict: Gives the weights that the gap's residuals were predicted with.
            cached: σ of the residuals that they were predicted from, the newest last.
            gap: σ of the evaluations skipped since then.
            sigma: σ of the evaluation that is computed.
            following: How many will be skipped behind it; None takes as many as before it.

        Returns:
            The factor of each cached residual and, last, of the computed one. None where there
            is nothing to mend, or the sampler has not gone by `sigmas`.
        """
        place = int(np.abs(np.asarray(self.sigmas[:-1]) - sigma).argmin())
        start = place - len(gap)
        if not gap or start < 1:
            return None
        if not same_levels(self.sigmas[start : place + 1], [*gap, sigma]):
            return None
        share = self.share(start, place, len(gap) if following is None else following)
        if share < _LEAST:
            return None
        steps = -np.diff(self.sigmas)
        factors = np.zeros(len(cached) + 1)
        for skipped, step in zip(gap, steps[start:place], strict=True):
            better = np.array(predict([*cached, sigma], skipped))
            better[:-1] -= predict(cached, skipped)
            factors += share * step / steps[place] * better
        return factors.tolist() if factors.any() else None

    def share(self, start: int, place: int, following: int) -> float:
        """How much of a gap's error is to be put right.

        The model itself takes back part of it: that shows in the residual computed behind the
        gap, which counts in the better prediction, and goes on in the gap that follows. Between
        long gaps it takes back so much that mending would do harm (docs/prediction.md).
        """
        ahead = min(place + following + 1, len(self.sigmas) - 1)
        before = 1 - self.sigmas[place] / self.sigmas[start]
        after = 1 - self.sigmas[ahead] / self.sigmas[place]
        short = max(1.0, _SHORT * (len(self.sigmas) - 1))
        longest = max(place - start, following)
        return max(0.0, 1 - after - before / 2) * min(1.0, short / longest) ** 4
