"""Measures what a calibration loses at step counts and shifts other than its own.

    python -m bench.prediction.carried --model emoji

The loss is smaller than the luck of a schedule: two with equal expected errors may differ by 3 dB.
So this compares expected errors instead. The run's own calibration judges the schedule and weights
from the other calibration, relative to those from itself.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.quality.condition import Condition
from bench.quality.counting import one_thread
from bench.quality.subjects import SUBJECTS
from magcache.curves import Calibration, GuidedGrams
from magcache.curves.nearness import distance
from magcache.decide import best_schedule, costs_of
from magcache.decide.search import weights_of

from .lab import Lab, Measured, arguments

STEPS, SHIFTS = (10, 20, 28, 50), (1.0, 3.0, 8.0)
SHARES = np.arange(8, 20) / 28  # of the evaluations computed
KEEP = 2
APART = (0, 0.25, 0.5, 1, 2, 4)  # steps, see `magcache.curves.nearness.distance`


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


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(prompts=1)
    asked = parser.parse_args()
    one_thread()
    subject = SUBJECTS[asked.model]()
    lab = Lab(subject, Condition(28, asked.cfg, 3.0), asked.prompts)
    settings = [(steps, shift) for steps in STEPS for shift in SHIFTS]
    made = {
        (steps, shift): lab.calibration(Measured(steps=steps, shift=shift))
        for steps, shift in track(settings, f"{subject.name}: calibrations")
    }
    table = Table(title=f"{subject.name}, CFG {asked.cfg:g}: dB lost; * coarser than the run")
    table.add_column("run \\ calibrated", no_wrap=True)
    for steps, shift in settings:
        table.add_column(f"{steps}/{shift:g}", justify="right", no_wrap=True)
    losses: dict[bool, list[float]] = {False: [], True: []}
    distances: list[tuple[float, float]] = []
    for run, own in made.items():
        row = []
        costs = sorted({round(float(share) * run[0]) for share in SHARES} - {0, 1, 2})
        best = [error(own, own, asked.cfg, cost) for cost in costs]
        for other, used in made.items():
            found = [error(own, used, asked.cfg, cost) for cost in costs]
            lost, wide = 20 * float(np.log10(np.array(found) / best).mean()), coarser(used, own)
            row.append(f"{lost:.1f}{'*' if wide else ''}")
            if other != run:
                losses[wide].append(lost)
                distances.append((distance(used, levels(own)), lost))
        table.add_row(f"{run[0]}/{run[1]:g}", *row)
    console = Console(width=130)
    console.print(table)
    for wide, name in ((False, "finer"), (True, "coarser")):
        told = f"median {np.median(losses[wide]):.1f} dB, largest {max(losses[wide]):.1f} dB"
        told += f", {np.mean(np.array(losses[wide]) <= 2):.0%} within 2 dB"
        console.print(f"{len(losses[wide])} calibrations {name} than the run: {told}")
    for low, high in pairwise(APART):
        lost = [lost for far, lost in distances if low <= far < high]
        told = f"median {np.median(lost):.1f} dB, largest {max(lost):.1f} dB"
        console.print(f"{len(lost)} with noise levels {low:g} to {high:g} steps away: {told}")


if __name__ == "__main__":
    main()
