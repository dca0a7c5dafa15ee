"""Measures what computing the first three evaluations gains, over what it is expected to cost.

Small models in first runs of 12 to 28 Euler steps, with a prior that does not include the model.
The choice was made on prompts that no published figure uses, and checked on others. Draws
docs/hedge.png.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import track

from bench.figures import mean_tenth_least
from magcache.decide.search import PREMIUM, expected_error
from tools.tables import table

from .expected import COLOURS
from .forecast import FIRST, Figures, Lab

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE = Path("docs/hedge.png")
COUNTS = {12: (6,), 20: (10,), 28: (12, 14)}
"""How many evaluations are computed, by steps."""

CHOSEN_ON = [
    (Lab(name, steps, cfg, shift, "euler", prompts, FIRST), count)
    for name, cfg, shift, prompts in (
        ("emoji-unet", 5.0, 1.0, 16), ("emoji-video", 3.0, 3.0, 8),
        ("emoji", 3.0, 3.0, 16), ("emoji", 1.0, 3.0, 16),
    )
    for steps, counts in COUNTS.items() for count in counts
]  # fmt: skip
CHECKED_ON = [
    (Lab("emoji-unet", 28, 5.0, 1.0, "euler", 48, 80), 14),
    (Lab("emoji-video", 28, 3.0, 3.0, "euler", 24, 80), 14),
    (Lab("emoji-unet", 28, 5.0, 1.0, "euler", 32, 0), 14),
    (Lab("emoji-video", 28, 3.0, 3.0, "euler", 32, 0), 14),
    (Lab("emoji", 28, 3.0, 3.0, "euler", 32, 0), 14),
]
A_THIRD = [
    (Lab("emoji", 20, 3.0, 1.0, "euler", 16, FIRST), 7),
    (Lab("emoji", 28, 3.0, 1.0, "euler", 16, FIRST), 10),
    (Lab("emoji", 28, 1.0, 1.0, "euler", 16, FIRST), 10),
]
"""Of the work, where the expected error hardly rises."""


@dataclass(frozen=True)
class Place:
    """One model at one number of steps and of computed evaluations.

    Attributes:
        rise: By which part the expected error rises if the first three are computed.
        without, hedged: PSNR of each prompt, dB.
    """

    lab: Lab
    computed: int
    rise: float
    without: Sequence[float]
    hedged: Sequence[float]

    @property
    def gain(self) -> float:
        """Of the mean, dB."""
        return (sum(self.hedged) - sum(self.without)) / len(self.hedged)

    @property
    def gain_of_the_worst(self) -> float:
        """Of the minimum, dB."""
        return min(self.hedged) - min(self.without)


def tables() -> dict[str, str]:
    draw(places(CHOSEN_ON)).savefig(PICTURE, dpi=110, facecolor="white")
    return {"hedge": rows_of(places(CHECKED_ON)), "hedge a third": rows_of(places(A_THIRD))}


def places(asked: Sequence[tuple[Lab, int]]) -> list[Place]:
    """The places where the two plans differ, by the rise."""
    figures, found = Figures(), []
    for lab, computed in track(asked, "sampling"):
        _, costs = lab.costs()
        (without, best), (hedged, other) = (
            figures.planned(replace(lab, begin=n), computed) for n in (1, 3)
        )
        if best != other:
            errors = [expected_error(costs, [e == "#" for e in plan]) for plan in (best, other)]
            found.append(Place(lab, computed, errors[1] / errors[0] - 1, without, hedged))
    return sorted(found, key=lambda place: place.rise)


def rows_of(found: Sequence[Place]) -> str:
    """A row per place, in Markdown."""
    rows = []
    for each in found:
        lab = each.lab
        at = f"CFG {lab.cfg:g}" + (f", shift {lab.shift:g}" if lab.name != "emoji-unet" else "")
        rows.append([
            f"{lab.name}, {at}", f"{each.computed} of {lab.steps}",
            f"{lab.first} to {lab.first + lab.prompts - 1}", f"{each.rise:+.0%}",
            mean_tenth_least(each.without), mean_tenth_least(each.hedged),
        ])  # fmt: skip
    heads = "", "computed", "prompts", "expected error", "best plan", "first three computed"
    return table(heads, rows, 4)


def draw(found: Sequence[Place]) -> "Figure":
    """Draws the gain of the mean and of the worst over the rise of the expected error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(0, 100 * PREMIUM, color="0.94", zorder=0)
    axes.axhline(0, color="0.6", linewidth=1, zorder=0)
    for model in dict.fromkeys(each.lab.name for each in found):
        own = [each for each in found if each.lab.name == model]
        rises, colour = [100 * each.rise for each in own], COLOURS[model]
        means, worst = [each.gain for each in own], [each.gain_of_the_worst for each in own]
        axes.plot(rises, means, "o", color=colour, label=f"{model}, mean")
        axes.plot(rises, worst, "v", color=colour, label=f"{model}, worst", markerfacecolor="none")
    axes.set_xlim(0)
    axes.set_xlabel("rise of the expected error if the first three are computed, %")
    axes.set_ylabel("gain in PSNR, dB")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=3)
    return figure
