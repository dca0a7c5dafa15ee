"""Schedules and rows of images, drawn with matplotlib (the extra `plot`)."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..curves import MagnitudeCurve
from ..decide import Schedule

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


def draw_schedule(
    schedule: Schedule, curves: Mapping[str, MagnitudeCurve], title: str = ""
) -> "Figure":
    """The residual's magnitude over the noise level, with what is computed and skipped."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    over_sigma = all(curve.over == "sigma" for curve in curves.values())
    count = len(schedule.sigmas)
    places = schedule.sigmas if over_sigma else [i / count for i in range(count)]
    skipped = [symbol == "." for symbol in str(schedule)]
    for name, curve in curves.items():
        heights = [curve.log_norm(place) for place in places]
        (line,) = axes.plot(places, heights, linewidth=1, label=name, zorder=1)
        for wanted, marker in ((False, "o"), (True, ".")):
            xs = [x for x, s in zip(places, skipped, strict=True) if s == wanted]
            ys = [y for y, s in zip(heights, skipped, strict=True) if s == wanted]
            axes.plot(xs, ys, marker, color=line.get_color(), markersize=6, zorder=2)
    low, high = axes.get_ylim()
    band = low - 0.1 * (high - low)
    for place, symbol in zip(places, skipped, strict=True):
        axes.plot(place, band, "|", color="0.75" if symbol else "black", markersize=12)
    axes.plot([], [], "o", color="0.3", label="computed")
    axes.plot([], [], ".", color="0.3", label="skipped")
    axes.set_xlabel("noise level σ" if over_sigma else "fraction of the trajectory")
    axes.set_ylabel("log ‖residual‖, up to a constant")
    if over_sigma:
        axes.invert_xaxis()
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_comparison(rows: Mapping[str, "np.ndarray"], columns: Sequence[str] = ()) -> "Figure":
    """Rows of images side by side: name to (N, H, W, 3) in [0, 1]."""
    from matplotlib.figure import Figure

    count = max(len(images) for images in rows.values())
    figure = Figure(figsize=(1.1 * count + 2.2, 1.25 * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes in line:
            axes.set_axis_off()
        for axes, image in zip(line, images, strict=False):
            axes.imshow(image, interpolation="nearest", vmin=0, vmax=1)
        line[0].text(
            -0.1, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9
        )
    for axes, title in zip(grid[0], columns, strict=False):
        axes.set_title(textwrap.fill(title, 16), fontsize=8)
    return figure


def save(figure: "Figure", path: str | Path) -> Path:
    """Writes a picture; the folder is made where it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white")
    return path
