"""Draws docs/method.png: what the prior knows, and a plan that is made from it.

python -m tools.method_pictures
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from magcache.curves import prior
from magcache.curves.gram import GramCurve, best_weights
from magcache.decide.search import costs_of, hedged_schedule

PICTURE = Path(__file__).parents[1] / "docs" / "method.png"
STEPS, COMPUTED = 28, 14
NAMES = {"emoji": "FLUX (images)", "emoji-video": "Wan (videos)", "emoji-unet": "U-Net (images)"}


def missed(curve: GramCurve, sigmas: np.ndarray) -> tuple[list[float], list[float]]:
    """Relative errors from the third level on: of the last output, and predicted from two."""
    gram = curve.between(sigmas)
    last, two = [], []
    for at in range(2, len(sigmas)):
        whole = gram[at, at]
        last.append(np.sqrt((whole - 2 * gram[at, at - 1] + gram[at - 1, at - 1]) / whole))
        own = gram[np.ix_([at - 1, at - 2, at], [at - 1, at - 2, at])]
        two.append(float(best_weights(own)[1]))
    return last, two


def draw_prior(axes: Axes, sigmas: np.ndarray) -> None:
    """How far off the next output is, of each model of the prior."""
    for colour, (name, member) in enumerate(prior.members().items()):
        last, two = missed(member["mean"], sigmas)
        axes.plot(sigmas[2:], last, f"C{colour}--", lw=1)
        axes.plot(sigmas[2:], two, f"C{colour}", label=NAMES[name])
    axes.plot([], [], "k--", lw=1, label="the last one reused")
    axes.plot([], [], "k", label="predicted from two")
    axes.set(yscale="log", xlabel="noise level σ", ylabel="relative error of the next output")
    axes.invert_xaxis()
    axes.set_title("Different models are predicted about equally well")
    axes.legend(fontsize=8)


def draw_plan(axes: Axes, sigmas: np.ndarray) -> None:
    """What is computed at 2x, and how far off each other step is expected to be."""
    members = [{"mean": member["mean"]} for member in prior.members().values()]
    costs = costs_of(prior.mean(members), [*sigmas], members=members)
    plan = hedged_schedule(costs, COMPUTED)
    computed = [place for place, runs in enumerate(plan) if runs]
    for place, runs in enumerate(plan):
        if runs:
            axes.axvspan(place + 0.6, place + 1.4, color="C2", alpha=0.35, lw=0)
            continue
        before = [each for each in computed if each < place]
        gap = before[-1] - before[-2] if len(before) > 1 else 0
        axes.bar(place + 1, costs.errors[gap, before[-1], place], color="C1", width=0.8)
    axes.bar([0], [0], color="C2", alpha=0.35, label="computed")
    axes.bar([0], [0], color="C1", label="skipped: expected error")
    axes.set(xlim=(0.3, STEPS + 0.7), xlabel=f"step of {STEPS}", ylabel="expected relative error")
    axes.set_title(f"The plan for 2x: {sum(plan)} of {STEPS} computed")
    axes.legend(fontsize=8)


def main() -> None:
    sigmas = np.linspace(1, 0, STEPS + 1)[:-1]
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_prior(left, sigmas)
    draw_plan(right, sigmas)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
