"""Checks what else prediction and planning assume; prints a line per figure.

python -m bench.prediction.checks [correction ...]
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from bench.quality.counting import quiet
from bench.quality.subjects import SUBJECTS
from magcache.curves import Trajectory, shifted_sigmas
from magcache.decide import Course, Target, decider_for

from .lab import CONDITIONS, COSTS, PROMPTS, Figures, Lab, Measured, Variant


def correction(figures: Figures) -> Iterator[str]:
    """Correcting while it runs, with a calibration of the model itself and of the other model."""
    asked = [Variant(10, error=0.1), Variant(14, error=0.05)]
    for model in PROMPTS:
        for of in PROMPTS:
            for condition in CONDITIONS[:2]:
                for variant in asked:
                    used = replace(variant, measured=Measured(model=of if of != model else ""))
                    planned, corrected = (
                        figures.of(model, condition, replace(used, corrects=corrects))
                        for corrects in (False, True)
                    )
                    yield (
                        f"{model}, {condition}, {of}'s calibration, error {variant.error:g}: "
                        f"computed {planned[1]:.1f}, corrected {corrected[1]:.1f}; "
                        f"{np.mean(planned[0]):.1f} dB, corrected {np.mean(corrected[0]):.1f}"
                    )


def unipc(figures: Figures) -> Iterator[str]:
    """A multistep sampler: with and without mending, and as many plain steps."""
    at = CONDITIONS[1]
    for model in PROMPTS:
        for n in COSTS:
            mended, _ = figures.of(model, at, Variant(n), multistep=True)
            without, _ = figures.of(model, at, Variant(n, mends=False), multistep=True)
            plain = figures.plain(model, at, n, multistep=True)
            told = ("not mended", without), ("mended", mended), ("plain", plain)
            means = ", ".join(f"{name} {np.mean(psnr):.1f}" for name, psnr in told)
            yield f"{model}, {at}, UniPC, {n} computed: {means} dB"


def error_ratios(_: Figures) -> Iterator[str]:
    """The ratio of prediction errors to the expected ones, on other prompts."""
    for model in PROMPTS:
        for condition in CONDITIONS[:2]:
            lab = Lab(SUBJECTS[model](), condition, 8)
            expected, found = lab.errors(Variant(14, corrects=True))
            shares = np.quantile(np.array(found) / expected, [0.05, 0.5, 0.95, 1])
            told = ", ".join(f"{share:.2f}" for share in shares)
            yield f"{model}, {condition}: found / expected error, 5, 50, 95, 100 %: {told}"


def planning_time(_: Figures) -> Iterator[str]:
    """How long it takes to plan a schedule from a calibration or from the prior."""
    calibration = Lab(SUBJECTS["emoji"](), CONDITIONS[1], 1).calibration(Measured())
    for source, grams in (("a calibration", calibration.grams), ("the prior", {})):
        for count in (28, 50, 100):
            course = Course.of_steps(Trajectory(shifted_sigmas(count, 5.0)))
            taken = []
            for _again in range(20):
                began = time.process_time()
                decider_for(Target(speedup=2), course, {}, grams, 3.0)
                taken.append(time.process_time() - began)
            yield f"planning {count} steps from {source}: {1000 * np.median(taken):.1f} ms"


CHECKS: dict[str, Callable[[Figures], Iterator[str]]] = {
    check.__name__: check for check in (correction, unipc, error_ratios, planning_time)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checks", nargs="*", metavar=f"{{{','.join(CHECKS)}}}")
    names = parser.parse_args().checks or [*CHECKS]
    if unknown := {*names} - {*CHECKS}:
        parser.error(f"no check is called {', '.join(unknown)}")
    quiet()
    with Figures.shown() as (figures, say):
        for name in names:
            for line in CHECKS[name](figures):
                say(line)


if __name__ == "__main__":
    main()
