"""What a run did: a text summary, figures for programs, and pictures."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from .curve import MagnitudeCurve
from .plan import FEW_STEPS, Schedule
from .run import Run

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Report:
    """The runs of one sampling: one, or one an expert or section.

    Attributes:
        runs: In the order in which they began.
        missing: Why there is nothing to report, where a model ran uncached.
    """

    runs: Sequence[Run]
    missing: str = ""

    @property
    def evaluations(self) -> int:
        return sum(len(run.evaluations) for run in self.runs)

    @property
    def skipped(self) -> int:
        return sum(run.skipped for run in self.runs)

    @property
    def computed(self) -> int:
        return self.evaluations - self.skipped

    @property
    def mended(self) -> int:
        """Computed evaluations that put right what was skipped before them."""
        return sum(run.mended for run in self.runs)

    @property
    def bytes_held(self) -> int:
        """Most bytes of residuals held at one time by any of the runs."""
        return max((run.cache.peak_bytes for run in self.runs), default=0)

    @property
    def speedup(self) -> float:
        """Measured: the time of computing everything over the time taken.

        From the median times of a computed and of a skipped evaluation, each run's own.
        """
        full = taken = 0.0
        for run in self.runs:
            computed = [e.seconds for e in run.evaluations if not e.skipped]
            skipped = [e.seconds for e in run.evaluations if e.skipped]
            if computed:
                full += median(computed) * len(run.evaluations)
                taken += median(computed) * len(computed)
                taken += median(skipped) * len(skipped) if skipped else 0.0
        return full / taken if taken else 1.0

    @property
    def schedule(self) -> str:
        """`#` computed, `.` skipped; a space between runs."""
        return " ".join(str(schedule_of(run)) for run in self.runs)

    @property
    def warnings(self) -> list[str]:
        """What the user should know, without repeats."""
        found = [self.missing] if self.missing else []
        for run in self.runs:
            found += run.warnings + _remarks(run)
        return list(dict.fromkeys(found))

    def headline(self) -> str:
        """One line, as logged once a run."""
        if not self.runs:
            return f"MagCache: {self.missing or 'no run yet'}"
        run = self.runs[-1]
        made_with = run.label if run.calibrator else f"{run.label}, {run.decider.summary}"
        return (
            f"MagCache: {self.skipped} of {self.evaluations} evaluations skipped, "
            f"{self.speedup:.2f}x ({made_with})"
        )

    def __str__(self) -> str:
        lines = [self.headline()]
        if self.runs:
            run = self.runs[-1]
            mended = f"  mended     {self.mended} gaps, by the evaluations computed behind them"
            lines += [
                f"  schedule   {self.schedule}",
                f"  computed   {_counts(self.runs)} ({_reasons(self.runs)})",
                *([mended] if self.mended else []),
                f"  settings   {run.decider.details}, kept on {run.storage.store}",
                f"  memory     {self.bytes_held / 2**20:.1f} MiB of residuals at most",
            ]
        return "\n".join(lines + [f"  note       {warning}" for warning in self.warnings])

    def figures(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return {
            "evaluations": self.evaluations,
            "computed": self.computed,
            "skipped": self.skipped,
            "mended": self.mended,
            "speedup": round(self.speedup, 3),
            "schedule": self.schedule,
            "bytes_held": self.bytes_held,
            "warnings": self.warnings,
            "runs": [
                {
                    "label": run.label,
                    "computed": len(run.evaluations) - run.skipped,
                    "skipped": run.skipped,
                    "sigmas": [e.sigma for e in run.evaluations],
                    "reasons": [e.outcome.value for e in run.evaluations],
                    "seconds": [round(e.seconds, 6) for e in run.evaluations],
                }
                for run in self.runs
            ],
        }

    def save_picture(self, path: str | Path) -> Path:
        """Draws curve and schedule of the last run; needs the extra `plot`."""
        if not self.runs:
            raise ValueError("there is no run to draw yet")
        run = self.runs[-1]
        return save(draw_schedule(schedule_of(run), run.decider.curves, self.headline()), path)


def schedule_of(run: Run) -> Schedule:
    """A run's schedule as it came out."""
    return Schedule(
        sigmas=tuple(e.sigma for e in run.evaluations),
        reasons=tuple(e.outcome for e in run.evaluations),
    )


def _remarks(run: Run) -> list[str]:
    remarks = []
    curves = run.decider.curves.values()
    if any(curve.over == "fraction" for curve in curves):
        remarks.append(
            "the curve's sampling schedule is unknown: it is used by fraction of the trajectory"
        )
    if run.decider.outside_curve:
        remarks.append("noise levels outside the calibrated range: the curve's end slope is used")
    if run.decider.steps < FEW_STEPS:
        remarks.append(f"{run.decider.steps} steps: below {FEW_STEPS} there is little to gain")
    return remarks + run.decider.notes


def _counts(runs: Sequence[Run]) -> str:
    """How many were computed: "24", or of several runs "24 = 12 + 12"."""
    counts = [len(run.evaluations) - run.skipped for run in runs]
    parts = f" = {' + '.join(map(str, counts))}" if len(counts) > 1 else ""
    return f"{sum(counts)}{parts}"


def _reasons(runs: Sequence[Run]) -> str:
    counts: dict[str, int] = {}
    for evaluation in (e for run in runs for e in run.evaluations if not e.skipped):
        reason = evaluation.outcome.value
        counts[reason] = counts.get(reason, 0) + 1
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


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
