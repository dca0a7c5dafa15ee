"""Measures what a calibration loses at step counts and shifts other than its own.

The loss is smaller than the luck of a schedule: two with equal expected errors may differ by 3 dB.
So this compares expected errors instead. The run's own calibration judges the schedule and weights
from the other calibration, relative to those from itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
from rich.progress import track

from bench.kept import Kept
from bench.quality.condition import Condition
from bench.quality.subjects import SUBJECTS
from magcache.curves import Calibration, GuidedGrams
from magcache.curves.nearness import distance
from magcache.decide import best_schedule, costs_of
from magcache.decide.search import weights_of
from tools.tables import table

from .lab import MODELS, Lab, Measured

CFG = 3.0
STEPS, SHIFTS = (10, 20, 28, 50), (1.0, 3.0, 8.0)
SHARES = np.arange(8, 20) / 28  # of the evaluations computed
KEEP = 2
APART = (0, 0.25, 0.5, 1, 2, 4, np.inf)  # steps, see `magcache.curves.nearness.distance`


@dataclass(frozen=True)
class Loss:
    """What a run loses with a calibration of other settings.

    Attributes:
        run, calibrated: Steps and shift.
        lost: dB.
        coarser: Whether the calibration's points are anywhere farther apart than the run's.
        distance: See `magcache.curves.nearness.distance`.
    """

    run: tuple[int, float]
    calibrated: tuple[int, float]
    lost: float
    coarser: bool
    distance: float


def tables() -> dict[str, str]:
    kept, columns = Kept("carried"), []
    for name in MODELS:
        found = kept.of(name, lambda name=name: {"losses": [*map(asdict, losses(name))]})
        columns.append(dict(_summary([Loss(**each) for each in found["losses"]])))
    rows = [[of, *(column[of] for column in columns)] for of in columns[0]]
    return {"carried": table(["", *MODELS], rows, len(MODELS))}


def losses(name: str) -> list[Loss]:
    """The losses of all pairs of different settings."""
    lab = Lab(SUBJECTS[name](), Condition(28, CFG, 3.0), 1)
    settings = [(steps, shift) for steps in STEPS for shift in SHIFTS]
    made = {
        (steps, shift): lab.calibration(Measured(steps=steps, shift=shift))
        for steps, shift in track(settings, f"{name}: calibrations")
    }
    found = []
    for run, own in made.items():
        costs = sorted({round(float(share) * run[0]) for share in SHARES} - {0, 1, 2})
        best = [error(own, own, CFG, cost) for cost in costs]
        for other, used in made.items():
            if other != run:
                errors = np.array([error(own, used, CFG, cost) for cost in costs])
                lost = 20 * float(np.log10(errors / best).mean())
                far = distance(used, levels(own))
                found.append(Loss(run, other, round(lost, 3), coarser(used, own), far))
    return found


def _summary(found: Sequence[Loss]) -> Iterator[tuple[str, str]]:
    """A line per kind of calibration: median and largest loss."""

    def told(some: Sequence[Loss]) -> str:
        lost = [each.lost for each in some]
        return f"{np.median(lost):.1f}, {max(lost):.1f}" if lost else ""

    yield "nowhere coarser than the run", told([each for each in found if not each.coarser])
    yield "coarser somewhere", told([each for each in found if each.coarser])
    for low, high in pairwise(APART):
        near = [each for each in found if low <= each.distance < high]
        far = f"more than {low:g}" if high == np.inf else f"{low:g} to {high:g}"
        yield f"noise levels {far} steps away", told(near)
    worst = max(found, key=lambda each: each.lost)
    named = (f"{steps} steps, shift {shift:g}" for steps, shift in (worst.calibrated, worst.run))
    yield "the worst", " for ".join(named)


def error(own: Calibration, used: Calibration, cfg: float, computed: int) -> float:
    """The error that a run's own calibration expects of another one's schedule and weights."""
    sigmas = levels(own)
    branches, weigh = list(own.grams), GuidedGrams(used.grams, cfg)
    truth = GuidedGrams(own.grams, cfg).between(branches, sigmas)
    weighs = weights_of(np.array(sigmas), 0.0)
    schedule = best_schedule(costs_of(used.grams, sigmas, 0.0, cfg), computed)
    cached: list[int] = []
    total = gap = 0.0
    for place, chosen in enumerate(schedule):
        if chosen:
            cached, total, gap = [*cached, place][-KEEP:], total + gap**2, 0.0
            continue
        weights = weigh.predict(branches, sigmas[place], [sigmas[c] for c in cached])[0]
        used_and_wanted, signs = [*cached, place], np.array([*weights, -1.0])
        square = signs @ truth[np.ix_(used_and_wanted, used_and_wanted)] @ signs
        gap += weighs[place] * np.sqrt(max(0.0, square) / truth[place, place])
    return float(np.sqrt(total + gap**2))


def levels(calibration: Calibration) -> Sequence[float]:
    """The noise levels of a calibration, falling."""
    return next(iter(calibration.grams.values())).norms.positions


def coarser(used: Calibration, own: Calibration) -> bool:
    """Whether the points of a calibration are anywhere farther apart than the run's."""
    points, run = np.array(levels(used)[::-1]), np.array(levels(own)[::-1])
    at = (run[1:] + run[:-1]) / 2
    cell = np.clip(np.searchsorted(points, at) - 1, 0, len(points) - 2)
    return bool((np.diff(points)[cell] > 1.05 * np.diff(run)).any() or points[0] > run[0] + 1e-6)
