"""Which setting of a way is its best at a cost."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

from .condition import Condition, Setting
from .store import Result

Axis = Literal["flops", "computed", "seconds"]
"""Costs: the blocks' work, the evaluations in which all blocks ran, and processor time."""
TOLERANCE = 0.01  # of the uncached run: so much dearer than asked still counts
NEAR = 0.02  # of the uncached run: so much below a target is near enough


def share(result: Result, uncached: Result, axis: Axis) -> float:
    """A result's cost as a share of the uncached run's."""
    return getattr(result.cost, axis) / getattr(uncached.cost, axis)


def best_at(
    results: Iterable[Result],
    uncached: Result,
    axis: Axis,
    target: float,
    tolerance: float = TOLERANCE,
) -> Result | None:
    """The result nearest to the uncached run that costs no more than `target`, a share.

    None where all cost more, or none costs at least half as much: a way that cannot use what it
    is given is then shown at the lower cost only.
    """
    within = [r for r in results if share(r, uncached, axis) <= target + tolerance]
    if not any(share(r, uncached, axis) >= target / 2 for r in within):
        return None
    return max(within, key=lambda r: (r.mean, -share(r, uncached, axis)))


def chosen(
    results: Iterable[Result], uncached: Result, condition: Condition, axes: Iterable[Axis]
) -> list[Result]:
    """The best result at each target and by each cost, each once."""
    results = list(results)
    found: dict[str, Result] = {}
    for axis in axes:
        for target in condition.targets:
            best = best_at(results, uncached, axis, target / condition.steps)
            if best:
                found.setdefault(best.key, best)
    return list(found.values())


def between(
    results: Iterable[Result], uncached: Result, knob: str, axis: Axis, target: float
) -> Setting | None:
    """A setting between two that cost more and less than `target`, a share, to come nearer to it.

    Of settings that differ in more than `knob`, those that promise the most at that cost. None
    where the cheaper one is near enough, or no two have the target between them.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        others = {key: value for key, value in result.setting.items() if key != knob}
        groups.setdefault(str(sorted(others.items())), []).append(result)
    found = [
        pair for group in groups.values() if (pair := _around(group, uncached, knob, axis, target))
    ]
    if not found:
        return None

    def promised(pair: Sequence[Result]) -> float:
        (low, worse), (high, better) = [(share(r, uncached, axis), r.mean) for r in pair]
        return worse + (better - worse) * (target - low) / (high - low)

    cheap, dear = max(found, key=promised)
    if share(cheap, uncached, axis) >= target - NEAR:
        return None
    middle = (cheap.setting[knob] * dear.setting[knob]) ** 0.5
    return {**cheap.setting, knob: float(f"{middle:.4g}")}


def _around(
    group: Sequence[Result], uncached: Result, knob: str, axis: Axis, target: float
) -> tuple[Result, Result] | None:
    """Neighbours by `knob` of which the first fits into the target and the second does not."""
    group = sorted(group, key=lambda result: result.setting[knob])
    for pair in pairwise(group):
        cheap, dear = sorted(pair, key=lambda result: share(result, uncached, axis))
        if share(cheap, uncached, axis) <= target + TOLERANCE < share(dear, uncached, axis):
            return cheap, dear
    return None
