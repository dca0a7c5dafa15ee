"""Measures the choices of predicting and planning, one at a time, and writes their tables.

    python -m bench.prediction

Samples the emoji and the video model with one calibration each, on prompts that no published figure
of bench.quality uses. Each result is saved at once, so an interrupted run resumes where it stopped.
Writes docs/prediction.md.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.quality.condition import Condition
from bench.quality.counting import quiet
from tools.tables import filled, table

from .lab import CONDITIONS, COSTS, DEFAULT, PROMPTS, REMAINS, Figures, Measured, Variant

PAGE = Path("docs/prediction.md")
FEW, STEPS = (4, 5, 6), (9, 10, 12, 14, 20, 28)

CHOICES: Mapping[str, Callable[[int], Variant]] = {
    "**as used**": Variant,
    "1 residual kept": lambda n: Variant(n, keep=1),
    "3 residuals kept": lambda n: Variant(n, keep=3),
    "ridge 10⁻²": lambda n: Variant(n, ridge=1e-2),
    "2¹² sampled entries": lambda n: Variant(n, measured=Measured(entries=1 << 12)),
    "first branch's errors only": lambda n: Variant(n, guided=False),
    "4 prompts merged": lambda n: Variant(n, measured=Measured(prompts=4)),
    "rule's schedule, predicted": lambda n: Variant(n, rule="predicted"),
    "rule's schedule, reused": lambda n: Variant(n, rule="reuse"),
}
"""What is changed, given the number of computed evaluations."""


def weights(figures: Figures) -> str:
    """The part of an error made at σ that remains: the plan's weight."""

    def mean(condition: Condition, name: str) -> str:
        found = [figures.of("emoji", condition, Variant(n, remains=name))[0] for n in COSTS]
        return f"{np.mean(found):.1f}"

    head = ["weight at σ", *map(_of, CONDITIONS)]
    rows = [[_formula(name), *(mean(each, name) for each in CONDITIONS)] for name in REMAINS]
    return table(head, rows, len(CONDITIONS))


def mending(figures: Figures) -> str:
    """Whether gaps are mended."""

    def both(model: str, condition: Condition, computed: int) -> str:
        without, mended = (
            np.mean(figures.of(model, condition, Variant(computed, mends=mends))[0])
            for mends in (False, True)
        )
        return f"{without:.1f}, **{mended:.1f}**"

    places = [*(("emoji", each) for each in CONDITIONS), ("emoji-video", CONDITIONS[1])]
    rows = [
        [f"{model}, {_of(at)}", *(both(model, at, computed) for computed in COSTS)]
        for model, at in places
    ]
    return table(["", *map(str, COSTS)], rows, len(COSTS))


def few(figures: Figures) -> str:
    """So few computed evaluations that as many plain steps may be as good."""

    def both(condition: Condition, computed: int) -> str:
        planned, _ = figures.of("emoji", condition, Variant(computed, fewest=2))
        plain = figures.plain("emoji", condition, computed)
        return f"**{np.mean(planned):.1f}**, {np.mean(plain):.1f}"

    rows = [
        [f"{n}, shift {shift}", *(both(Condition(steps, 3.0, shift), n) for steps in STEPS)]
        for n in FEW for shift in (1, 3)
    ]  # fmt: skip
    return table(["computed", *(f"{n} steps" for n in STEPS)], rows, len(STEPS))


def choices(figures: Figures) -> str:
    """One choice changed at a time."""

    def means(model: str, condition: Condition, change: Callable[[int], Variant]) -> str:
        cells = []
        for asked in COSTS[1:]:
            psnr, computed = figures.of(model, condition, change(asked))
            more = computed - asked  # the rule cannot compute every number
            cells.append(f"{np.mean(psnr):.1f}" + (f" ({more:+.0f})" if round(more) else ""))
        return ", ".join(cells)

    places = [(model, condition) for model in PROMPTS for condition in CONDITIONS[:2]]
    rows = [
        [name, *(means(*place, change) for place in places)] for name, change in CHOICES.items()
    ]
    return table(["", *(f"{model}, shift {at.shift:g}" for model, at in places)], rows, len(places))


TABLES: Sequence[Callable[[Figures], str]] = (weights, mending, few, choices)


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0]).parse_args()
    quiet()
    with Figures.shown() as (figures, _):
        written = {each.__name__: each(figures) for each in TABLES}
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), written), encoding="utf-8")
    print(f"written: {PAGE}")


def _of(condition: Condition) -> str:
    return f"CFG {condition.cfg:g}, shift {condition.shift:g}"


def _formula(name: str) -> str:
    told = name.replace("^6", "⁶")
    if name == DEFAULT:
        return f"**{told}** (in use)"
    return f"{told} (no weight)" if name == "1" else told


if __name__ == "__main__":
    main()
