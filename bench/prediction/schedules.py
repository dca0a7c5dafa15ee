"""Finds the weight of propagated errors that best predicts which schedules are better.

    python -m bench.prediction.schedules --model emoji --shift 1 3 --count 70

Samples random schedules, each of which is good under some weight. Then tests for each form of the
plan's weight how well its costs agree with the measured PSNR.
"""

from pathlib import Path
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.kept import add_line, read_lines
from bench.quality.condition import Condition
from bench.quality.counting import one_thread
from bench.quality.subjects import SUBJECTS
from magcache.curves import Calibration
from magcache.decide import by_plan, search

from .lab import FOLDER, REMAINS, Lab, Measured, Variant, arguments

SHARES = (7, 10, 10, 14, 14, 19)  # computed evaluations of 28, to draw from


def drawn(
    calibration: Calibration, condition: Condition, random: np.random.Generator
) -> list[bool]:
    """A schedule that is best under a random weight."""
    falls, rises, power = random.uniform(0, 8), random.uniform(0, 3), random.uniform(2, 30)
    rises *= random.random() < 0.5
    sigmas = _sigmas(calibration)
    uneven = np.exp(random.normal(size=len(sigmas)) * random.choice([0, 0.5, 1.0]))

    def remaining(at: np.ndarray) -> np.ndarray:
        return (0.5 / (1 + falls * at) + rises * at**power) * uneven

    costs = search.costs_of(calibration.grams, sigmas, 0.0, condition.cfg, remaining=remaining)
    return search.best_schedule(costs, round(condition.steps * random.choice(SHARES) / 28))


def collect(lab: Lab, count: int, path: Path) -> list[dict]:
    """Samples schedules until there are `count`, including those already in the file."""
    known = read_lines(path)
    calibration, random = lab.calibration(Measured()), np.random.default_rng(len(known))
    for _ in track(range(count - len(known)), lab.name):
        schedule = drawn(calibration, lab.condition, random)
        if str_of(schedule) in {each["schedule"] for each in known}:
            continue
        with patch.object(by_plan, "best_schedule", lambda *_, own=schedule: list(own)):
            psnr, _ = lab.psnr(Variant(sum(schedule)))
        known.append({"schedule": str_of(schedule), "psnr": psnr})
        add_line(path, known[-1])
    return known


def judged(known: list[dict], lab: Lab, remaining: search.Remains) -> tuple[float, float]:
    """The correlation of a form with PSNR among schedules of one length, and its regret in dB.

    Regret is how much worse the fifth of the schedules that it ranks highest is than the best
    fifth.
    """
    calibration = lab.calibration(Measured())
    costs = search.costs_of(
        calibration.grams, _sigmas(calibration), 0.0, lab.condition.cfg, remaining=remaining
    )
    lengths = np.array([each["schedule"].count("#") for each in known])
    found = np.array([(np.mean(e["psnr"]) + np.median(e["psnr"])) / 2 for e in known])
    schedules = [[symbol == "#" for symbol in each["schedule"]] for each in known]
    errors = np.array([search.expected_error(costs, each) for each in schedules])
    foretold = -20 * np.log10(errors)
    regrets, centred = [], []
    for length in np.unique(lengths):
        mine = np.flatnonzero(lengths == length)
        if len(mine) < 4:
            continue
        first = max(1, len(mine) // 5)
        chosen = mine[np.argsort(-foretold[mine])][:first]
        regrets.append(np.sort(found[mine])[-first:].mean() - found[chosen].mean())
        both = np.stack([foretold[mine], found[mine]])
        centred.append(both - both.mean(1, keepdims=True))
    return float(np.corrcoef(np.concatenate(centred, 1))[0, 1]), float(np.mean(regrets))


def str_of(schedule: list[bool]) -> str:
    return "".join("#" if computed else "." for computed in schedule)


def _sigmas(calibration: Calibration) -> list[float]:
    return next(iter(calibration.branches.values())).sigmas


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, default=70, help="schedules to sample")
    asked = parser.parse_args()
    one_thread()
    subject = SUBJECTS[asked.model]()
    for shift in asked.shift:
        lab = Lab(subject, Condition(asked.steps, asked.cfg, shift), asked.prompts)
        known = collect(lab, asked.count, FOLDER / f"schedules-{lab.name}-{asked.prompts}.jsonl")
        table = Table(title=f"{lab.name}, {len(known)} schedules")
        for column in ("what remains of an error at σ", "correlation", "regret, dB"):
            table.add_column(column)
        for name, form in REMAINS.items():
            correlation, regret = judged(known, lab, form)
            table.add_row(name, f"{correlation:.2f}", f"{regret:.2f}")
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
