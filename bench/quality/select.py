"""Selects the best setting of a way at each cost."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from .condition import Condition, Setting
from .store import Result

TOLERANCE = 0.01  # share of the uncached run by which a result may exceed the target
NEAR = 0.02  # share of the uncached run by which a close result may be below the target


def share(result: Result, uncached: Result) -> float:
    """The work of a result's blocks, as a share of the uncached run's."""
    return result.cost.flops / uncached.cost.flops


def best_at(
    results: Iterable[Result], uncached: Result, target: float, tolerance: float = TOLERANCE
) -> Result | None:
    """The result closest to the uncached run that costs no more than `target`, a share.

    None if all cost more, or if none costs at least half as much: a way that cannot use the budget
    is shown only at the lower cost.
    """
    within = [r for r in results if share(r, uncached) <= target + tolerance]
    if not any(share(r, uncached) >= target / 2 for r in within):
        return None
    return max(within, key=lambda r: (r.mean, -share(r, uncached)))


def chosen(results: Iterable[Result], uncached: Result, condition: Condition) -> list[Result]:
    """The best result at each target, without duplicates."""
    results = list(results)
    found = [best_at(results, uncached, t / condition.steps) for t in condition.targets]
    return list({best.key: best for best in found if best}.values())


def between(
    results: Iterable[Result], uncached: Result, knob: str, target: float
) -> Setting | None:
    """A setting between two that cost more and less than `target`, a share, to come closer to it.

    If settings differ in more than `knob`, it uses the most promising ones at that cost. None if
    the cheaper one is close enough, or if no two settings have the target between them.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        others = {key: value for key, value in result.setting.items() if key != knob}
        groups.setdefault(str(sorted(others.items())), []).append(result)
    found = [pair for group in groups.values() if (pair := _around(group, uncached, knob, target))]
    if not found:
        return None

    def promised(pair: Sequence[Result]) -> float:
        (low, worse), (high, better) = [(share(r, uncached), r.mean) for r in pair]
        return worse + (better - worse) * (target - low) / (high - low)

    cheap, dear = max(found, key=promised)
    if share(cheap, uncached) >= target - NEAR:
        return None
    middle = (cheap.setting[knob] * dear.setting[knob]) ** 0.5
    return {**cheap.setting, knob: float(f"{middle:.4g}")}


def _around(
    group: Sequence[Result], uncached: Result, knob: str, target: float
) -> tuple[Result, Result] | None:
    """Neighbours by `knob`, of which the first is within the target and the second is not."""
    group = sorted(group, key=lambda result: result.setting[knob])
    for pair in pairwise(group):
        cheap, dear = sorted(pair, key=lambda result: share(result, uncached))
        if share(cheap, uncached) <= target + TOLERANCE < share(dear, uncached):
            return cheap, dear
    return None
