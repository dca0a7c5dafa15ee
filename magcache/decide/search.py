"""Planned schedules: the best evaluations to compute, from Gram curves, before the first step.

A skipped evaluation costs the expected error of its predicted residual, weighed by how far it
moves the sample (Δσ) and by how much of that is left at the end. The errors of a gap's evaluations
add up; those of different gaps are taken for independent, so their squares add up. A dynamic
programme finds the schedule of least cost for a given number of computed evaluations, over one
model's curves or the mean of several.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..curves import GramCurve, best_weights, guidance_shares

LONGEST_GAP = 10  # most evaluations skipped in a row
FINISHED = 1e-3  # a run that ends at or below this σ ends with the image

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


Grams = Mapping[str, GramCurve]


@dataclass(frozen=True)
class Costs:
    """Expected errors of one run, from which schedules are made.

    Attributes:
        errors: (G+1, T, T); [g, c, j] is the expected relative error of the residual of
            evaluation j, predicted from the ones computed at c and at c - g (g = 0: c only).
        gaps: (G+1, T, T+1); [g, c, d] is the square of what skipping all between c and d adds to
            the error at the end (d = T: to the end).
        may_skip: (T,) whether the evaluation may be skipped.
    """

    errors: np.ndarray
    gaps: np.ndarray
    may_skip: np.ndarray

    @property
    def evaluations(self) -> int:
        return len(self.may_skip)

    def after(self, place: int) -> "Costs":
        """Those of the run's rest, from an evaluation that is computed."""
        allowed = self.may_skip[place:].copy()
        allowed[0] = False
        return Costs(self.errors[:, place:, place:], self.gaps[:, place:, place:], allowed)


def costs_of(
    grams: Grams,
    sigmas: Sequence[float],
    end: float = 0.0,
    guidance: float = 1.0,
    may_skip: Sequence[bool] | None = None,
    remaining: Remains = remains,
    keep: int | Mapping[str, int] = 2,
    members: Sequence[Grams] = (),
    fresh: Sequence[int] = (),
    ratios: Sequence[float] | np.ndarray = (),
) -> Costs:
    """The expected errors of a run.

    Args:
        grams: Gram curve of each branch, by which residuals are predicted.
        sigmas: σ of each evaluation, (T,), falling.
        end: σ behind the last one.
        guidance: CFG scale.
        may_skip: Which evaluations may be skipped, (T,); all but the first by default.
        remaining: What remains of an error made at σ.
        keep: How many residuals are predicted from, or how many of each branch; a third is not
            reckoned with, as it changes little.
        members: Gram curves that the model may have; the errors are the mean over them, and a
            gap's add up as vectors. Without them `grams` are its own, and a gap's errors add up
            as if they all pointed the same way.
        fresh: Places of evaluations that are computed, and beyond which nothing older is used.
        ratios: By how much the squared error of each evaluation exceeds what the curves tell, (T,).
    """
    at = np.asarray(sigmas, float)
    larger = np.sqrt(ratios) if len(ratios) else np.ones(len(at))
    weights = weights_of(at, end, remaining)
    allowed = np.ones(len(at), bool) if may_skip is None else np.array(may_skip, bool)
    allowed[[0, *fresh]] = False
    shares = guidance_shares(list(grams), guidance)
    kept = dict.fromkeys(grams, keep) if isinstance(keep, int) else keep
    errors = gaps = np.zeros(1)
    for branch, share in shares.items():
        if share > 0:
            near, used = _used(grams[branch].between(at), kept[branch], fresh)
            for member in members or (grams,):
                scale = next(iter(member.values())) if members else member[branch]
                sizes = np.exp([scale.norms.log_norm(level) for level in at])
                gram = member[branch].between(at)[near[..., :, None], near[..., None, :]]
                missed = _ahead(larger / sizes)[:, :, None] * used
                moved = np.cumsum(_ahead(weights)[:, :, None] * missed, axis=2)
                errors = errors + share * _squares(missed, gram)
                gaps = gaps + share * _squares(moved, gram)
    if not members:  # the published figures of measured models are with errors that all add up
        gaps = np.square(np.cumsum(_ahead(weights) * np.sqrt(errors), axis=2))
    count = len(members) or 1
    return Costs(_by_place(np.sqrt(errors / count)), _closed(gaps / count, allowed), allowed)


def weights_of(sigmas: np.ndarray, end: float, remaining: Remains = remains) -> np.ndarray:
    """What is left at the end of an error made at each σ, (T,): of its step, what remains."""
    weights = np.abs(sigmas - np.append(sigmas[1:], end)) * remaining(sigmas)
    if end <= FINISHED:
        weights[-1] = abs(sigmas[-1] - end)  # nothing comes after it that could mend it
    return weights


def best_schedule(costs: Costs, computed: int, within: float = math.inf) -> list[bool]:
    """Which evaluations to compute for the least cost.

    Args:
        costs: The expected errors.
        computed: How many at most. The first one and those that may not be skipped are always
            computed, even if these are more.
        within: As many more are computed as bring the cost down to this.
    """
    count = costs.evaluations
    gaps = costs.gaps
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
    gaps = costs.gaps
    places = [place for place, chosen in enumerate(computed) if chosen]
    total, gap = 0.0, 0
    for place, following in zip(places, [*places[1:], len(computed)], strict=True):
        total += gaps[min(gap, gaps.shape[0] - 1), place, following]
        gap = following - place
    return float(np.sqrt(total))


def _used(gram: np.ndarray, keep: int, fresh: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """How the errors of predictions follow from what is there.

    Returns:
        (G+1, T, A+2), at [g, c] the places c - g and c, and the A behind them; and
        (G+1, T, A, A+2), at [g, c, a] 1 for evaluation c + 1 + a and less its weights for those
        that it is predicted from. 0 behind the end of the run.
    """
    count = len(gram)
    longest = min(LONGEST_GAP, count) + 1
    begun = np.array([max((f for f in (0, *fresh) if f <= c), default=0) for c in range(count)])
    near = np.empty((longest + 1, count, longest + 2), int)
    used = np.zeros((longest + 1, count, longest, longest + 2))
    here, ahead = np.nonzero(np.add.outer(np.arange(count), np.arange(longest)) + 1 < count)
    for gap in range(longest + 1):
        computed = np.arange(count)
        offsets = [-gap, 0, *range(1, longest + 1)]
        near[gap] = np.clip(computed[:, None] + offsets, 0, count - 1)
        two = (gap > 0) & (keep > 1) & (here - gap >= begun[here])
        for chosen, back in ((two, [0, 1]), (~two, [1])):
            c, a = here[chosen], ahead[chosen]
            rows = near[gap, c[:, None], [*back, -1]]
            rows[:, -1] = c + a + 1
            weights = best_weights(gram[rows[:, :, None], rows[:, None, :]])[0]
            used[gap, c, a, a + 2] = 1
            used[gap, c[:, None], a[:, None], back] = -weights
    return near, used


def _squares(vectors: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Of each row of vectors (..., A, n) its square by a Gram matrix (..., n, n), (..., A)."""
    return np.maximum((vectors @ gram * vectors).sum(-1), 0)


def _ahead(weights: np.ndarray) -> np.ndarray:
    """(T, A): those of the evaluations behind each, 0 behind the end."""
    count = len(weights)
    longest = min(LONGEST_GAP, count) + 1
    padded = np.append(weights, np.zeros(longest))
    return np.lib.stride_tricks.sliding_window_view(padded, longest)[1 : count + 1]


def _by_place(ahead: np.ndarray) -> np.ndarray:
    """[g, c, j] from [g, c, j - c - 1], 0 elsewhere."""
    depth, count, longest = ahead.shape
    placed = np.zeros((depth, count, count))
    for here in range(count):
        last = min(count, here + longest + 1)
        placed[:, here, here + 1 : last] = ahead[:, here, : last - here - 1]
    return placed


def _closed(ahead: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """`Costs.gaps` from those of the evaluations skipped up to each, (G+1, T, A)."""
    depth, count, longest = ahead.shape
    closed = np.full((depth, count, count + 1), np.inf)
    for here in range(count):
        barred = np.flatnonzero(~allowed[here + 1 :])
        last = min(count, here + longest, *(here + 1 + barred[:1]))
        closed[:, here, here + 1] = 0
        closed[:, here, here + 2 : last + 1] = ahead[:, here, : last - here - 1]
    return closed
