"""The study's command line: python -m bench.prediction [--model emoji-video] [--study keep ...]

Every figure is saved at once, so an interrupted study resumes where it stopped.
"""

import argparse
import itertools
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.kept import Kept
from bench.quality.condition import Condition
from bench.quality.counting import one_thread
from bench.quality.subjects import SUBJECTS, Subject
from magcache.curves import Trajectory, shifted_sigmas
from magcache.decide import Course, Target, by_plan, decider_for

from .lab import REMAINS, Lab, Measured, Variant

COSTS = (7, 10, 14, 19)  # of 28
Rows = Iterator[tuple[str, Condition, Variant]]
CONDITIONS = [Condition(28, cfg, shift) for cfg in (3.0, 1.0) for shift in (1.0, 3.0)]


def scaled(computed: int, steps: int) -> int:
    return round(computed * steps / 28)


def keep() -> Rows:
    """The number of residuals to predict from."""
    for condition in CONDITIONS[:2]:
        for count in (1, 2, 3):
            for cost in COSTS:
                yield f"keep {count}", condition, Variant(cost, keep=count)


def mending() -> Rows:
    """Whether gaps are mended."""
    conditions = [*CONDITIONS, *(Condition(steps, 3.0, 3.0) for steps in (12, 20, 50))]
    for condition in conditions:
        for mends in (False, True):
            for cost in COSTS:
                name = "mended" if mends else "not mended"
                yield name, condition, Variant(scaled(cost, condition.steps), mends=mends)


def ridge() -> Rows:
    """The ridge."""
    for value in (0.0, 1e-6, 1e-4, 1e-3, 1e-2):
        for count in (2, 3):
            for cost in COSTS[1:]:
                name = f"ridge {value:g}, keep {count}"
                yield name, CONDITIONS[0], Variant(cost, keep=count, ridge=value)


def remains() -> Rows:
    """The part of an error made at σ that remains: the plan's weight."""
    for condition in CONDITIONS:
        for name in REMAINS:
            for cost in COSTS:
                yield name, condition, Variant(cost, remains=name)


def carried() -> Rows:
    """Calibrations made with other steps, shifts and CFG scales than the run's."""
    made = [Measured()]
    made += [Measured(steps=steps) for steps in (10, 20, 50)]
    made += [Measured(shift=shift) for shift in (1.0, 3.0, 8.0)]
    made += [Measured(steps=50, shift=8.0), Measured(cfg=1.0), Measured(cfg=5.0)]
    for condition in CONDITIONS[:2]:
        for measured in made:
            for cost in COSTS[1:]:
                yield (
                    f"calibrated at {_told(measured)}",
                    condition,
                    Variant(cost, measured=measured),
                )


def steps() -> Rows:
    """Other step counts, with their own calibration and with one of 28 steps."""
    for count in (10, 20, 50):
        condition = Condition(count, 3.0, 3.0)
        for cost in COSTS[1:]:
            own = Variant(scaled(cost, count))
            yield "own calibration", condition, own
            yield "calibrated at 28 steps", condition, replace(own, measured=Measured(steps=28))


def prompts() -> Rows:
    """One calibration prompt, or several merged."""
    for condition in CONDITIONS[:2]:
        for count in (1, 2, 4):
            for cost in COSTS[1:]:
                measured = Measured(prompts=count)
                yield f"{count} prompts", condition, Variant(cost, measured=measured)


def entries() -> Rows:
    """The number of entries sampled from a residual."""
    for bits in (10, 12, 14, 16, 18):
        for cost in COSTS[1:]:
            measured = Measured(entries=1 << bits)
            yield f"2^{bits} entries", CONDITIONS[0], Variant(cost, measured=measured)


def guided() -> Rows:
    """Weighting the branches' errors by the CFG scale, or using one branch only."""
    for condition in CONDITIONS[:2]:
        for weighs in (True, False):
            for cost in COSTS[1:]:
                name = "weighted by the CFG scale" if weighs else "the first branch only"
                yield name, condition, Variant(cost, guided=weighs)


def rule() -> Rows:
    """The rule's schedules, with reused and with predicted residuals."""
    for condition in CONDITIONS[:2]:
        for how in ("reuse", "predicted"):
            for cost in COSTS[1:]:
                yield f"rule, {how}", condition, Variant(cost, rule=how)
        for cost in COSTS[1:]:
            yield "planned, predicted", condition, Variant(cost)


def correction() -> Rows:
    """Online correction, with the calibration of the model itself and of the other model."""
    for of in SUBJECTS:
        for condition in CONDITIONS[:2]:
            for corrects in (False, True):
                asked = [Variant(cost, corrects=corrects) for cost in COSTS]
                asked += [Variant(10, error=0.1, corrects=corrects)]
                asked += [Variant(14, error=0.05, corrects=corrects)]
                for variant in asked:
                    how = "corrected" if corrects else "as planned"
                    told = f"error {variant.error:g}" if variant.error else "planned"
                    measured = Measured(model=of)
                    yield f"{of}, {told}, {how}", condition, replace(variant, measured=measured)


STUDIES: dict[str, Callable[[], Rows]] = {
    study.__name__: study
    for study in (
        keep,
        mending,
        ridge,
        remains,
        carried,
        steps,
        prompts,
        entries,
        guided,
        rule,
        correction,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description="What prediction and planning are worth.")
    parser.add_argument("--model", default="emoji", choices=sorted(SUBJECTS))
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument(
        "--study", nargs="+", default=[*STUDIES, *CHECKS], choices=[*STUDIES, *CHECKS]
    )
    asked = parser.parse_args()
    one_thread()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    console, subject = Console(width=100), SUBJECTS[asked.model]()
    results = Kept(f"prediction-{asked.model}-{asked.prompts}")
    for name in asked.study:
        if name in STUDIES:
            run_study(name, subject, asked.prompts, results, console)
        else:
            CHECKS[name](subject, asked.prompts, console)


def run_study(name: str, subject: Subject, prompts: int, results: Kept, console: Console) -> None:
    """Samples all variants of a study and prints a table of their PSNR."""
    labs: dict[Condition, Lab] = {}
    rows: dict[tuple[Condition, str], dict[int, str]] = {}
    for told, condition, variant in STUDIES[name]():
        if condition not in labs:
            labs[condition] = Lab(subject, condition, prompts)
        key = f"{labs[condition].name}: {asdict(variant)}"
        found = results.get(key)
        if found is None:
            sampled, computed = labs[condition].psnr(variant)
            found = results.add(key, psnr=sampled, computed=computed)
        psnr = found["psnr"]
        figures = (np.mean(psnr), np.median(psnr), np.quantile(psnr, 0.1), np.min(psnr))
        cell = " / ".join(f"{figure:.1f}" for figure in figures)
        if abs(found["computed"] - variant.computed) > 0.05:
            cell += f" ({found['computed']:.1f})"
        rows.setdefault((condition, told), {})[variant.computed] = cell
    for condition in labs:
        table = Table(title=f"{subject.name}, {condition}: {STUDIES[name].__doc__}")
        mine = {told: cells for (at, told), cells in rows.items() if at == condition}
        costs = sorted({cost for cells in mine.values() for cost in cells})
        told = "PSNR in dB: mean / median / 10th percentile / minimum"
        for column in (told, *(f"{cost} computed" for cost in costs)):
            table.add_column(column)
        for told, cells in mine.items():
            table.add_row(told, *(cells.get(cost, "") for cost in costs))
        console.print(table)


def few(subject: Subject, prompts: int, console: Console) -> None:
    """So few computed evaluations that as many plain steps may be as good. Ignores the minimum."""
    for steps, shift in itertools.product((9, 10, 11, 12, 14, 20, 28), (1.0, 3.0)):
        lab = Lab(subject, Condition(steps, 3.0, shift), prompts)
        with patch.object(by_plan, "fewest_worth", return_value=2):
            for cost in (4, 5, 6):
                planned, plain = np.mean(lab.psnr(Variant(cost))[0]), np.mean(lab.plain(cost))
                told = f"{cost} computed {planned:.1f} dB, {cost} plain steps {plain:.1f} dB"
                console.print(f"{lab.condition}: {told}")


def unipc(subject: Subject, prompts: int, console: Console) -> None:
    """A multistep sampler: weights, mending, and as many plain steps."""
    lab = Lab(subject, CONDITIONS[1], prompts, multistep=True)
    for cost in COSTS:
        forms = {name: Variant(cost, remains=name, mends=False) for name in REMAINS}
        found = {f"planned by {name}": lab.psnr(variant)[0] for name, variant in forms.items()}
        found["mended"] = lab.psnr(Variant(cost))[0]
        found["plain"] = lab.plain(cost)
        told = ", ".join(f"{name} {np.mean(psnr):.1f}" for name, psnr in found.items())
        console.print(f"UniPC, {cost} of 28, dB: {told}")


def error_ratios(subject: Subject, _prompts: int, console: Console) -> None:
    """The ratio of prediction errors to the expected ones, on other prompts."""
    for condition in CONDITIONS[:2]:
        expected, found = Lab(subject, condition, 8).errors(Variant(14, corrects=True))
        shares = np.quantile(np.array(found) / expected, [0.05, 0.5, 0.95, 1])
        told = ", ".join(f"{share:.2f}" for share in shares)
        console.print(f"{condition}: found / expected errors, 5 %, median, 95 %, largest: {told}")


def planning_time(subject: Subject, _prompts: int, console: Console) -> None:
    """How long it takes to plan a schedule from a calibration or from the prior."""
    calibration = Lab(subject, CONDITIONS[1], 1).calibration(Measured())
    for source, grams in (("a calibration", calibration.grams), ("the prior", {})):
        for count in (28, 50, 100):
            course = Course.of_steps(Trajectory(shifted_sigmas(count, 5.0)))
            taken = []
            for _ in range(20):
                began = time.process_time()
                decider_for(Target(speedup=2), course, {}, grams, 3.0)
                taken.append(time.process_time() - began)
            found = 1000 * np.median(taken)
            console.print(f"planning {count} steps from {source}: {found:.1f} ms")


CHECKS: dict[str, Callable[[Subject, int, Console], None]] = {
    check.__name__: check for check in (few, unipc, error_ratios, planning_time)
}


def _told(measured: Measured) -> str:
    named = {"steps": measured.steps, "shift": measured.shift, "CFG": measured.cfg}
    return ", ".join(f"{k} {v:g}" for k, v in named.items() if v) or "the run's own settings"


if __name__ == "__main__":
    main()
