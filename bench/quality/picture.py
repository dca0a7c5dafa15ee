"""Draws quality over cost: one panel per condition, each line named at its end."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .ways import FORECAST, PLAIN, PLANNED, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Sequence[tuple[float, float]]
# Okabe and Ito's colours, safe for colour blindness; the second line of a colour is dashed.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C")
MARKERS = "o^sDvP<X*>"
OURS = {
    FORECAST: ("#D55E00", "-", 2.6),
    PLANNED: ("#D55E00", "-.", 1.6),
    RULE: ("#D55E00", "--", 1.6),
    PLAIN: ("black", ":", 1.6),
}


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Moves heights so that neighbours are at least `gap` apart, in the same order."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    placed = [0.0] * len(heights)
    groups: list[list[int]] = []
    for place in order:
        groups.append([place])
        while len(groups) > 1 and _bottom(groups[-1], heights, gap) < (
            _bottom(groups[-2], heights, gap) + gap * len(groups[-2])
        ):
            last = groups.pop()
            groups[-1] += last
    for group in groups:
        bottom = _bottom(group, heights, gap)
        for number, place in enumerate(group):
            placed[place] = bottom + number * gap
    return placed


def _bottom(group: Sequence[int], heights: Sequence[float], gap: float) -> float:
    """The lowest height of a group that is centred on its original heights."""
    middle = sum(heights[place] for place in group) / len(group)
    return middle - gap * (len(group) - 1) / 2


def draw(panels: Mapping[str, Mapping[str, Curve]]) -> "Figure":
    """Draws curves of (cost as a share, mean PSNR) by way, one panel per condition."""
    from matplotlib.figure import Figure

    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(7.6 * columns, 5.0 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    names = sorted({way for curves in panels.values() for way in curves})
    styles = _styles(names)
    for axes, (title, curves) in zip(grid, panels.items(), strict=False):
        _panel(axes, curves, styles)
        axes.set_title(title, loc="left", fontsize=11)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def _styles(names: Sequence[str]) -> dict[str, dict[str, object]]:
    styles: dict[str, dict[str, object]] = {}
    rivals = [name for name in names if name not in OURS]
    free = [colour for colour in COLOURS if colour != OURS[FORECAST][0]]
    for number, name in enumerate(rivals):
        dashes = "-" if number < len(free) else (0, (5, 2))
        colour = free[number % len(free)]
        styles[name] = {"color": colour, "linestyle": dashes, "linewidth": 1.2}
        styles[name]["marker"] = MARKERS[number % len(MARKERS)]
    for name, (colour, dashes, width) in OURS.items():
        styles[name] = {"color": colour, "linestyle": dashes, "linewidth": width, "marker": "o"}
    return styles


def _panel(
    axes: "Axes", curves: Mapping[str, Curve], styles: Mapping[str, dict[str, object]]
) -> None:
    drawn = {way: curve for way, curve in curves.items() if curve}
    for way, curve in drawn.items():
        xs, ys = [100 * x for x, _ in curve], [y for _, y in curve]
        style: dict = dict(styles[way])
        axes.plot(xs, ys, markersize=4, zorder=3 if way == FORECAST else 2, **style)
    low, high = axes.get_ylim()
    axes.set_xlim(20, 102)
    axes.set_xticks(range(20, 80, 10))
    ends = [curve[-1] for curve in drawn.values()]
    heights = apart([y for _, y in ends], 0.052 * (high - low))
    for way, (x, y), height in zip(drawn, ends, heights, strict=True):
        colour = str(styles[way]["color"])
        weight = "bold" if way == FORECAST else "normal"
        axes.plot([100 * x, 75.5], [y, height], color=colour, linewidth=0.5, alpha=0.6, zorder=1)
        axes.text(76, height, way, color=colour, fontsize=8.5, va="center", weight=weight)
    axes.set_xlabel("work done in the blocks, % of the uncached run", loc="left")
    axes.set_ylabel("mean PSNR to the uncached run, dB")
    axes.hlines(axes.get_yticks()[1:-1], 20, 73, color="0.85", linewidth=0.6, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["bottom"].set_bounds(20, 73)
