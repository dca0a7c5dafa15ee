"""Mending: a computed evaluation corrects the error of the skipped ones before it.

After a gap, its residuals can be predicted better than before, because they now lie between
computed ones. Euler's method moves the sample by Δσ times the model's output, so the gap moved it
wrongly by Σ Δσᵢ·(better - predicted). The evaluation after the gap adds a term to its own residual
that makes up for this in its own step, at the cost of one sum of tensors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..curves import same_levels

Predict = Callable[[Sequence[float], float], Sequence[float]]
"""Given the σ of some residuals and another σ, returns their weights in predicting the latter."""

_SHORT = 1 / 14  # of the run's evaluations; gaps up to this length are mended fully
_LEAST = 0.05  # mending a smaller share is not worth the memory


@dataclass(frozen=True)
class Mender:
    """Computes the correction for a sampler whose steps are Δσ times the model's output.

    Attributes:
        sigmas: σ of the run's evaluations, falling, followed by the σ at which it ends.
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
        """The correction to add to a computed residual, to mend the gap before it.

        Args:
            predict: Returns the weights with which the gap's residuals were predicted.
            cached: σ of the residuals that they were predicted from, newest last.
            gap: σ of the evaluations skipped since then.
            sigma: σ of the evaluation that is computed.
            following: How many evaluations will be skipped after it; None assumes as many as
                before it.

        Returns:
            The factors of the cached residuals and, last, of the computed one. None if there is
            nothing to mend, or the sampler has not followed `sigmas`.
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
        """The share of a gap's error that should be mended.

        The model itself corrects part of it. That is already visible in the residual computed
        after the gap, which the better prediction uses, and continues in the next gap. Between
        long gaps the model corrects so much that mending would do harm (docs/prediction.md).
        """
        ahead = min(place + following + 1, len(self.sigmas) - 1)
        before = 1 - self.sigmas[place] / self.sigmas[start]
        after = 1 - self.sigmas[ahead] / self.sigmas[place]
        short = max(1.0, _SHORT * (len(self.sigmas) - 1))
        longest = max(place - start, following)
        return max(0.0, 1 - after - before / 2) * min(1.0, short / longest) ** 4
