"""Plans schedules: finds the best evaluations to compute, from Gram curves, before the first step.

A skipped evaluation costs the expected error of its predicted residual, weighted by how far it
moves the sample (Δσ) and by how much of that error remains at the end. Errors within a gap add up.
Errors of different gaps are assumed to be independent, so their squares add up. Dynamic
programming finds the cheapest schedule with a given number of computed evaluations, for one
model's curves or the mean over several.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..curves import GramCurve, best_weights, guidance_shares

LONGEST_GAP = 10  # largest number of evaluations skipped in a row
FINISHED = 1e-3  # a run that ends at or below this σ ends with the finished image

_FIRST = 3  # evaluations that a hedged schedule computes first,
_SHARE = 0.45  # if it computes at least this part of all,
PREMIUM = 0.08  # and if that raises the expected error by at most this part
_ROUNDING = 1e-9

Remains = Callable[[np.ndarray], np.ndarray]
"""The part of an error made at σ that remains at the end, relative to one made at the last step."""


def remains(sigmas: np.ndarray) -> np.ndarray:
    """The default: smallest in the middle, where the model itself corrects most of an error.

    Errors at the highest noise change the composition, and how much depends on model and prompt.
    The function is a compromise between the best ones for two models (docs/prediction.md). If a σ
    is above 1, they are those of x + σ·ε, with the flow level σ/(1+σ).
    """
    levels = sigmas / (1 + sigmas) if sigmas.max() > 1 + 1e-3 else sigmas
    return (1 + 4 * levels**6) / (1 + 4 * levels)


Grams = Mapping[str, GramCurve]


@dataclass(frozen=True)
class Costs:
    """Expected errors of one run, from which schedules are made.

    Attributes:
        errors: (G+1, T, T); [g, c, j] is the expected relative error of evaluation j, predicted
            from those computed at c and c - g (g = 0: c only).
        gaps: (G+1, T, T+1); [g, c, d] is the square of what skipping all evaluations between c
            and d adds to the error at the end (d = T: up to the end).
        may_skip: (T,), whether each evaluation may be skipped.
    """

    errors: np.ndarray
    gaps: np.ndarray
    may_skip: np.ndarray

    @property
    def evaluations(self) -> int:
        return len(self.may_skip)

    def computing_first(self, count: int) -> "Costs":
        """The costs of runs that compute the first `count` evaluations."""
        allowed, gaps = self.may_skip.copy(), self.gaps.copy()
        allowed[:count] = False
        for here in range(min(count, self.evaluations) - 1):
            gaps[:, here, here + 2 :] = np.inf
        return Costs(self.errors, gaps, allowed)

    def after(self, place: int) -> "Costs":
        """The costs of the rest of the run, from a computed evaluation on."""
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
        grams: Gram curve of each branch, used for prediction.
        sigmas: σ of each evaluation, (T,), falling.
        end: σ after the last evaluation.
        guidance: CFG scale.
        may_skip: Which evaluations may be skipped, (T,); all but the first by default.
        remaining: The part of an error made at σ that remains at the end.
        keep: How many residuals to predict from, for all branches or for each. A third one is
            ignored, because it changes little.
        members: Gram curves that the model may have. The errors are means over them, and within
            a gap they add up as vectors. Without members, `grams` are the model's own, and the
            errors of a gap add up as if they all pointed in the same direction.
        fresh: Places of evaluations at boundaries. They are computed, and nothing older is used
            from there on.
        ratios: Ratio of each evaluation's squared error to the one that the curves give, (T,).
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
    if not members:  # the published figures of measured models were made with this sum
        gaps = np.square(np.cumsum(_ahead(weights) * np.sqrt(errors), axis=2))
    count = len(members) or 1
    return Costs(_by_place(np.sqrt(errors / count)), _closed(gaps / count, allowed), allowed)


def weights_of(sigmas: np.ndarray, end: float, remaining: Remains = remains) -> np.ndarray:
    """Weight of an error at each σ, (T,): its step Δσ times the part that remains at the end."""
    weights = np.abs(sigmas - np.append(sigmas[1:], end)) * remaining(sigmas)
    if end <= FINISHED:
        weights[-1] = abs(sigmas[-1] - end)  # no later evaluation could correct it
    return weights


def best_schedule(costs: Costs, computed: int, within: float = math.inf) -> list[bool]:
    """The cheapest schedule: for each evaluation, whether to compute it.

    Args:
        costs: The expected errors.
        computed: Largest number of computed evaluations. The first one and those that may not be
            skipped are always computed, even if they are more.
        within: Computes as many more as it takes to bring the cost down to this.
    """
    count = costs.evaluations
    gaps = costs.gaps
    longest = min(LONGEST_GAP, count) + 1
    # best[n, c, g]: least cost up to c, with n computed, the last two of them at c - g and c.
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
    fewest = int(good.argmax())  # computing all evaluations is always good
    affordable = totals[: max(computed, fewest) + 1]
    number, here, gap = np.unravel_index(affordable.argmin(), affordable.shape)
    chosen = [False] * count
    while True:
        chosen[here] = True
        if gap == 0:
            return chosen
        number, here, gap = number - 1, here - gap, before[number, here, gap]


def hedged_schedule(costs: Costs, computed: int) -> list[bool]:
    """The schedule for a model whose own curves are not known, see `best_schedule`.

    Some models keep the errors of their first evaluations to the end, and the curves of other
    models cannot tell. So a schedule of about half the work or more computes them, if the expected
    error hardly rises for it (docs/prediction.md).
    """
    best = best_schedule(costs, computed)
    if computed < _SHARE * costs.evaluations:
        return best
    hedged = best_schedule(costs.computing_first(_FIRST), computed)
    most = (1 + PREMIUM) * expected_error(costs, best)
    affordable = sum(hedged) <= sum(best) and expected_error(costs, hedged) <= most
    return hedged if affordable else best


def bound_of(costs: Costs, computed: int) -> float:
    """The bound on the expected error of skipped evaluations that computes `computed` of them."""
    candidates = np.unique(costs.errors[costs.errors > 0])
    fewest = bisect_left(candidates, -computed, key=lambda bound: -_computed_below(costs, bound))
    return float(candidates[min(fewest, len(candidates) - 1)])


def _computed_below(costs: Costs, bound: float) -> int:
    """How many evaluations are computed if those with an expected error above `bound` are."""
    count, here, gap, computed = costs.evaluations, 0, 0, 1
    longest = len(costs.errors) - 1
    for place in range(1, count):
        near = place - here <= longest
        if not (near and costs.may_skip[place] and costs.errors[gap, here, place] <= bound):
            gap, here, computed = min(place - here, longest), place, computed + 1
    return computed


def expected_error(costs: Costs, computed: Sequence[bool]) -> float:
    """The cost of a schedule. Comparable only between schedules of the same run."""
    gaps = costs.gaps
    places = [place for place, chosen in enumerate(computed) if chosen]
    total, gap = 0.0, 0
    for place, following in zip(places, [*places[1:], len(computed)], strict=True):
        total += gaps[min(gap, gaps.shape[0] - 1), place, following]
        gap = following - place
    return float(np.sqrt(total))


def _used(gram: np.ndarray, keep: int, fresh: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Prediction errors as linear combinations of residuals.

    Returns:
        places: (G+1, T, A+2); [g, c] holds c - g, c and the A places after c.
        coefficients: (G+1, T, A, A+2) on these places; [g, c, a] is 1 at evaluation c + 1 + a,
            minus the weights at those it is predicted from. 0 after the end of the run.
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
    """The square of each row of `vectors` (..., A, n) under a Gram matrix (..., n, n): (..., A)."""
    return np.maximum((vectors @ gram * vectors).sum(-1), 0)


def _ahead(weights: np.ndarray) -> np.ndarray:
    """For each evaluation, the weights of the A evaluations after it, (T, A); 0 after the end."""
    count = len(weights)
    longest = min(LONGEST_GAP, count) + 1
    padded = np.append(weights, np.zeros(longest))
    return np.lib.stride_tricks.sliding_window_view(padded, longest)[1 : count + 1]


def _by_place(ahead: np.ndarray) -> np.ndarray:
    """Reindexes [g, c, j - c - 1] to [g, c, j], with 0 elsewhere."""
    depth, count, longest = ahead.shape
    placed = np.zeros((depth, count, count))
    for here in range(count):
        last = min(count, here + longest + 1)
        placed[:, here, here + 1 : last] = ahead[:, here, : last - here - 1]
    return placed


def _closed(ahead: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """`Costs.gaps` from the cost of skipping up to each evaluation, (G+1, T, A)."""
    depth, count, longest = ahead.shape
    closed = np.full((depth, count, count + 1), np.inf)
    for here in range(count):
        barred = np.flatnonzero(~allowed[here + 1 :])
        last = min(count, here + longest, *(here + 1 + barred[:1]))
        closed[:, here, here + 1] = 0
        closed[:, here, here + 2 : last + 1] = ahead[:, here, : last - here - 1]
    return closed
