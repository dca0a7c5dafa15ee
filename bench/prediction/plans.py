"""Measures the choices of predicting and planning with a calibration, one at a time.

Samples the emoji and the video model with one calibration each, on prompts that no published figure
of bench.quality uses.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bench.quality.condition import Condition
from tools.tables import table

from .lab import CALIBRATED, CONDITIONS, COSTS, DEFAULT, MODELS, Figures, Measured, Variant

WEIGHTS = {
    DEFAULT: f"**{DEFAULT}** (in use)",
    **{f"(1+{n}σ⁶)/(1+4σ)": f"(1+{n}σ⁶)/(1+4σ)" for n in ("", 8, 24)},
    "1/(1+4σ)": "1/(1+4σ)",
    "1": "1 (no weight)",
}
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
    rows = [[told, *(mean(at, name) for at in CONDITIONS)] for name, told in WEIGHTS.items()]
    return table(head, rows, len(CONDITIONS))


def mending(figures: Figures) -> str:
    """Whether gaps are mended."""

    def both(model: str, condition: Condition, computed: int, unipc: bool) -> str:
        without, mended = (
            figures.of(model, condition, Variant(computed, mends=mends), multistep=unipc)[0]
            for mends in (False, True)
        )
        return f"{np.mean(without):.1f}, **{np.mean(mended):.1f}**"

    at = CONDITIONS[1]
    places = [*(("emoji", each, False) for each in CONDITIONS), ("emoji-video", at, False)]
    places += [(model, at, True) for model in MODELS]
    rows = []
    for model, condition, unipc in places:
        name = f"{model}, {_of(condition)}" + (", UniPC" if unipc else "")
        rows.append([name, *(both(model, condition, n, unipc) for n in COSTS)])
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

    places = [(model, condition) for model in MODELS for condition in CONDITIONS[:2]]
    rows = [
        [name, *(means(*place, change) for place in places)] for name, change in CHOICES.items()
    ]
    return table(["", *(f"{model}, shift {at.shift:g}" for model, at in places)], rows, len(places))


def correction(figures: Figures) -> str:
    """Correcting while it runs, with a calibration of the model itself and of the other model."""
    asked = [Variant(10, error=0.1), Variant(14, error=0.05)]

    def change(model: str, of: str, condition: Condition, variant: Variant) -> str:
        used = replace(variant, measured=_measured(model, of))
        (psnr, cost), (better, more) = (
            figures.of(model, condition, replace(used, corrects=corrects))
            for corrects in (False, True)
        )
        return f"{cost:.1f} {np.mean(psnr):.1f}, **{more:.1f} {np.mean(better):.1f}**"

    rows = [
        [f"{_with(model, of)}, {_of(at)}", *(change(model, of, at, each) for each in asked)]
        for model, of in CALIBRATED for at in CONDITIONS[:2]
    ]  # fmt: skip
    return table(["computed, dB", *(f"error {each.error:g}" for each in asked)], rows, len(asked))


def errors(figures: Figures) -> str:
    """The ratio of prediction errors to the expected ones, on other prompts."""
    shares = (0.05, 0.5, 0.95)
    rows = []
    for model, of in CALIBRATED:
        for condition in CONDITIONS[:2]:
            variant = Variant(14, measured=_measured(model, of))
            ratios = figures.errors(model, condition, variant)
            name = f"{_with(model, of)}, {_of(condition)}"
            rows.append([name, *(f"{each:.2f}" for each in np.quantile(ratios, shares))])
    return table(["found / expected error", *(f"{each:.0%}" for each in shares)], rows, len(shares))


TABLES: Sequence[Callable[[Figures], str]] = (weights, mending, few, choices, correction, errors)


def tables() -> dict[str, str]:
    with Figures.shown() as figures:
        return {each.__name__: each(figures) for each in TABLES}


def _measured(model: str, of: str) -> Measured:
    """A calibration of the model itself or of the other one."""
    return Measured(model=of if of != model else "")


def _with(model: str, of: str) -> str:
    return f"{model} with {'its own' if of == model else f'the calibration of {of}'}"


def _of(condition: Condition) -> str:
    return f"CFG {condition.cfg:g}, shift {condition.shift:g}"
