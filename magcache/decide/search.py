"""Planned schedules: the best evaluations to compute, from Gram curves, before the first step.

A skipped evaluation costs the expected error of its predicted residual, weighed by how far it
moves the sample (Δσ) and by how much of that is left at the end. The errors of neighbouring
skipped evaluations point the same way and add up; those of different gaps are independent, so
their squares add up. A dynamic programme finds the schedule of least cost for a given number of
computed evaluations.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..curves import GramCurve, best_weights, guidance_shares

LONGEST_GAP = 10  # most evaluations skipped in a row
_FINISHED = 1e-3  # a run that ends at or below this σ ends with the image

_ROUNDING = 1e-9

Remains = Callable[[np.ndarray], np.ndarray]
"""What remains at the end of an error made at σ, relative to one made at the last step."""


def remains(sigmas: np.ndarray) -> np.ndarray:
    """The default: least in the middle, where the model itself takes back most.

    Errors at the highest noise change what is drawn, in some models and of some prompts much more
    than in others: a compromise of what two models were found to want (docs/prediction.md). A σ
    above 1 is one of x + σ·ε, and σ/(1+σ) its flow-matching level.
    """
    levels = sigmas / (1 + sigmas) if sigmas.max() > 1 + 1e-3 else sigmas
    return (1 + 4 * levels**6) / (1 + 4 * levels)


@dataclass(frozen=True)
class Costs:
    """Expected errors of one run, from which schedules are made.

    Attributes:
        errors: (G+1, T, T); [g, c, j] is the expected relative error of the residual of
            evaluation j, predicted from the ones computed at c and at c - g (g = 0: c only).
        weights: (T,) what an error of that evaluation weighs.
        may_skip: (T,) whether the evaluation may be skipped.
    """

    errors: np.ndarray
    weights: np.ndarray
    may_skip: np.ndarray

    @property
    def evaluations(self) -> int:
        return len(self.weights)

    def after(self, place: int) -> "Costs":
        """Those of the run's rest, from an evaluation that is computed."""
        allowed = self.may_skip[place:].copy()
        allowed[0] = False
        return Costs(self.errors[:, place:, place:], self.weights[place:], allowed)


def costs_of(
    grams: Mapping[str, GramCurve],
    sigmas: Sequence[float],
    end: float = 0.0,
    guidance: float = 1.0,
    may_skip: Sequence[bool] | None = None,
    remaining: Remains = remains,
    keep: int | Mapping[str, int] = 2,
) -> Costs:
    """The expected errors of a run.

    Args:
        grams: Gram curve of each branch.
        sigmas: σ of each evaluation, (T,), falling.
        end: σ behind the last one.
        guidance: CFG scale.
        may_skip: Which evaluations may be skipped, (T,); all but the first by default.
        remaining: What remains of an error made at σ.
        keep: How many residuals are predicted from, or how many of each branch; a third is not
            reckoned with, as it changes little.
    """
    at = np.asarray(sigmas, float)
    count = len(at)
    shares = guidance_shares(list(grams), guidance)
    kept = dict.fromkeys(grams, keep) if isinstance(keep, int) else keep
    squares = sum(
        share * _errors(grams[branch].between(at), kept[branch]) ** 2
        for branch, share in shares.items()
        if share > 0
    )
    steps = np.abs(at - np.append(at[1:], end))
    weights = steps * remaining(at)
    if end <= _FINISHED:
        weights[-1] = steps[-1]  # nothing comes after it that could mend it
    allowed = np.ones(count, bool) if may_skip is None else np.array(may_skip, bool)
    allowed[0] = False
    return Costs(np.sqrt(squares), weights, allowed)


def best_schedule(costs: Costs, computed: int, within: float = math.inf) -> list[bool]:
    """Which evaluations to compute for the least cost.

    Args:
        costs: The expected errors.
        computed: How many at most. The first one and those that may not be skipped are always
            computed, even if these are more.
        within: As many more are computed as bring the cost down to this.
    """
    count = costs.evaluations
    gaps = _gap_costs(costs)
    longest = min(LONGEST_GAP, count) + 1
    # best[n, c, g]: least cost up to a computed c, the one before it at c - g, n computed.
    best = np.full((count + 1, count, longest + 1), np.inf)
    before = np.zeros((count + 1, count, longest + 1), int)
    best[1, 0, 0] = 0
    for here in range(count):
        for gap in range(1, min(longest, count - 1 - here) + 1):
            total = best[:-1, here] + gaps[: longest + 1, here, here + gap]
            before[1:, here + gap, gap] = total.argmin(-1)
            best[1:, here + gap, gap] = total.min(-1)
    closing = [gaps[: longest + 1, here, count] for here in range(count)]
    totals = best + np.stack(closing)[None]
    least = np.sqrt(totals.min((1, 2)))
    good = np.isfinite(least) & (least <= within * (1 + _ROUNDING))
    fewest = int(good.argmax())  # all of them are always good
    affordable = totals[: max(computed, fewest) + 1]
    number, here, gap = np.unravel_index(affordable.argmin(), affordable.shape)
    chosen = [False] * count
    while True:
        chosen[here] = True
        if gap == 0:
            return chosen
        number, here, gap = number - 1, here - gap, before[number, here, gap]


def bound_of(costs: Costs, computed: int) -> float:
    """The expected error that, as a bound on skipped evaluations, computes so many."""
    candidates = np.unique(costs.errors[costs.errors > 0])
    fewest = bisect_left(candidates, -computed, key=lambda bound: -_computed_below(costs, bound))
    return float(candidates[min(fewest, len(candidates) - 1)])


def _computed_below(costs: Costs, bound: float) -> int:
    """How many evaluations are computed where an expected error above `bound` is not taken."""
    count, here, gap, computed = costs.evaluations, 0, 0, 1
    longest = len(costs.errors) - 1
    for place in range(1, count):
        near = place - here <= longest
        if not (near and costs.may_skip[place] and costs.errors[gap, here, place] <= bound):
            gap, here, computed = min(place - here, longest), place, computed + 1
    return computed


def expected_error(costs: Costs, computed: Sequence[bool]) -> float:
    """The cost of a schedule: what it may be compared by, of one run only."""
    gaps = _gap_costs(costs)
    places = [place for place, chosen in enumerate(computed) if chosen]
    total, gap = 0.0, 0
    for place, following in zip(places, [*places[1:], len(computed)], strict=True):
        total += gaps[min(gap, gaps.shape[0] - 1), place, following]
        gap = following - place
    return float(np.sqrt(total))


def _errors(gram: np.ndarray, keep: int) -> np.ndarray:
    """`Costs.errors` from the Gram matrix (T, T) of one branch."""
    count = len(gram)
    longest = min(LONGEST_GAP, count) + 1
    errors = np.zeros((longest + 1, count, count))
    ahead = np.arange(1, longest + 1)
    for gap in range(longest + 1):
        here = np.arange(gap, count)
        newest, wanted = np.meshgrid(here, ahead, indexing="ij")
        newest, wanted = newest.ravel(), (newest + wanted).ravel()
        newest, wanted = newest[wanted < count], wanted[wanted < count]
        used = [newest, wanted] if gap == 0 or keep == 1 else [newest - gap, newest, wanted]
        rows = np.stack(used, -1)
        blocks = gram[rows[:, :, None], rows[:, None, :]]
        errors[gap, newest, wanted] = best_weights(blocks)[1]
    return errors


def _gap_costs(costs: Costs) -> np.ndarray:
    """[g, c, d]: cost of skipping all between c and d (T: to the end), shape (G+1, T, T+1)."""
    depth, count, _ = costs.errors.shape
    longest = depth - 1
    price = np.where(costs.may_skip, costs.errors * costs.weights, np.inf)
    summed = np.full((depth, count, count + 1), np.inf)
    for here in range(count):
        last = min(count, here + longest)
        summed[:, here, here + 1] = 0
        summed[:, here, here + 2 : last + 1] = np.cumsum(price[:, here, here + 1 : last], -1)
    return summed**2
