"""Reports what a sampling did, as text, as data and as a picture.

A report holds plain figures only, so keeping one keeps no model or tensor alive.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from .decide import Reason, in_words
from .run import Run

if TYPE_CHECKING:
    from PIL.Image import Image


Over = Literal["sigma", "level", "fraction"]
_NEAREST = 3  # computed evaluations from which the cost of a skipped one is estimated


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of a run.

    Attributes:
        sigma: Its noise level.
        step: Its step in the run.
        place: Its position on the curve: σ, or the fraction of the trajectory.
        reason: Why it was computed, or `Reason.SKIPPED`.
        seconds: Time it took, see `Evaluation`.
        error: Expected relative error of the prediction if it was skipped; None without a Gram
            curve.
    """

    sigma: float
    step: int
    place: float
    reason: Reason
    seconds: float
    error: float | None = None

    @property
    def skipped(self) -> bool:
        return self.reason is Reason.SKIPPED


@dataclass(frozen=True)
class RunReport:
    """One run.

    Attributes:
        label: Name of its settings, for example a preset's name.
        summary: The most important settings; "" for a measurement.
        details: The other settings.
        evaluations: In order.
        mended: Number of computed evaluations that mended the gap before them.
        curves: log‖r‖ of each branch at every evaluation, up to a constant.
        over: What the `place` of an evaluation means.
        bytes_held: Largest number of bytes of residuals held at once.
        warnings: What the user should know.
        shortfall: The warning that says why the run gained less than asked for, or differs more.
        expected: Expected difference of its plan from the uncached run, see `decide.in_words`;
            None if unknown.
    """

    label: str
    summary: str
    details: str
    evaluations: tuple[Evaluated, ...]
    mended: int = 0
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    over: Over = "sigma"
    bytes_held: int = 0
    warnings: tuple[str, ...] = ()
    shortfall: str = ""
    expected: float | None = None

    @property
    def skipped(self) -> int:
        return sum(each.skipped for each in self.evaluations)

    @property
    def computed(self) -> int:
        return len(self.evaluations) - self.skipped

    @property
    def schedule(self) -> str:
        """`#` computed, `.` skipped."""
        return "".join("." if each.skipped else "#" for each in self.evaluations)


@dataclass(frozen=True)
class Report:
    """The runs of one sampling: one, or one per expert or section.

    Attributes:
        runs: In the order in which they began.
        missing: Why there is nothing to report, if the model ran uncached.
        told: Further lines from the host, by name: "asked", "sampling".
    """

    runs: Sequence[RunReport]
    missing: str = ""
    told: Mapping[str, str] = field(default_factory=dict)

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
        """Number of computed evaluations that mended the gap before them."""
        return sum(run.mended for run in self.runs)

    @property
    def bytes_held(self) -> int:
        """Largest number of bytes of residuals that any run held at once."""
        return max((run.bytes_held for run in self.runs), default=0)

    @property
    def speedup(self) -> float:
        """Measured speed-up: the estimated time of the uncached run over the time taken.

        Each evaluation's uncached time is the median of the three nearest computed ones, so a
        slow first one (compilation, say) does not count, and a ControlNet counts only while it
        is active.
        """
        full = taken = 0.0
        for run in self.runs:
            for each, computed in zip(run.evaluations, _if_computed(run.evaluations), strict=False):
                full += computed
                taken += each.seconds if each.skipped else computed
        return full / taken if taken else 1.0

    @property
    def schedule(self) -> str:
        """`#` computed, `.` skipped; a space between runs."""
        return " ".join(run.schedule for run in self.runs)

    @property
    def warnings(self) -> list[str]:
        """What the user should know, without duplicates."""
        found = [self.missing] if self.missing else []
        return list(dict.fromkeys(found + [w for run in self.runs for w in run.warnings]))

    def telling(self, name: str, text: str) -> "Report":
        """The same report with one more line below the headline."""
        return replace(self, told={name: text, **self.told})

    def short(self) -> str:
        """The result in brief: "2.0x, 14 of 28 computed. Expected difference: small."."""
        if not self.runs:
            return self.missing or "no run yet"
        if self._gains_nothing:
            return nothing_to_gain(self.evaluations)
        expected = [run.expected for run in self.runs]
        return gain(self.speedup, self.computed, self.evaluations, expected)

    @property
    def _gains_nothing(self) -> bool:
        reasons = {each.reason for run in self.runs for each in run.evaluations}
        return Reason.LITTLE_GAIN in reasons and not self.skipped

    def line(self) -> str:
        """The line that is logged once per run: the headline, and why it gained less than asked."""
        if self._gains_nothing:
            return f"MagCache: {nothing_to_gain(self.evaluations)}"
        short = next((run.shortfall for run in self.runs if run.shortfall), "")
        return f"{self.headline()}; {short}" if short else self.headline()

    def headline(self) -> str:
        """Its first line."""
        if not self.runs:
            return f"MagCache: {self.missing or 'no run yet'}"
        run = self.runs[-1]
        made_with = f"{run.label}, {run.summary}" if run.summary else run.label
        return (
            f"MagCache: {self.skipped} of {self.evaluations} evaluations skipped, "
            f"{self.speedup:.2f}x ({made_with})"
        )

    def __str__(self) -> str:
        lines = dict(self.told)
        if self.runs:
            lines |= {"times": _times(self.runs), "schedule": self.schedule}
            lines["computed"] = _computed(self.runs)
            if self.mended:
                lines["mended"] = f"{self.mended} gaps, corrected by the next computed evaluation"
            lines["settings"] = self.runs[-1].details
            lines["memory"] = f"{self.bytes_held / 2**20:.1f} MiB of residuals at most"
        texts = [*lines.items(), *(("note", warning) for warning in self.warnings)]
        return "\n".join([self.headline(), *(f"  {name:10} {text}" for name, text in texts)])

    def figures(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return {
            "evaluations": self.evaluations,
            "computed": self.computed,
            "skipped": self.skipped,
            "mended": self.mended,
            "speedup": round(self.speedup, 3),
            "schedule": self.schedule,
            "bytes_held": self.bytes_held,
            "warnings": self.warnings,
            "told": dict(self.told),
            "runs": [
                {
                    "label": run.label,
                    "computed": run.computed,
                    "skipped": run.skipped,
                    "sigmas": [each.sigma for each in run.evaluations],
                    "reasons": [each.reason.value for each in run.evaluations],
                    "seconds": [round(each.seconds, 6) for each in run.evaluations],
                    "expected_errors": [each.error for each in run.evaluations],
                }
                for run in self.runs
            ],
        }

    def picture(self) -> "Image":
        """Draws the last run: curve, schedule, times and expected errors. Needs Pillow.

        Draws the report's text if there is no run.
        """
        from .pictures import draw_sampling, draw_text

        headline, _, rest = str(self).partition("\n")
        if not self.runs:
            return draw_text(headline, rest)
        run, count = self.runs[-1], len(self.runs)
        headline = headline.replace(" (", "\n(", 1)  # the settings on a line of their own
        headline += f"\nBelow: the last of {count} runs" if count > 1 else ""
        return draw_sampling(headline, run.evaluations, run.curves, run.over)

    def save_picture(self, path: str | Path) -> Path:
        """Writes the picture in the format of the file's extension; creates its folder.

        Raises:
            ValueError: There is no run to draw yet.
        """
        if not self.runs:
            raise ValueError("there is no run to draw yet")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.picture().save(path)
        return path


def report_of(
    runs: Iterable[Run], missing: str = "", told: Mapping[str, str] | None = None
) -> Report:
    """The report of runs, finished or not; waits for the device."""
    return Report([figures_of(run) for run in runs], missing, told or {})


def figures_of(run: Run) -> RunReport:
    """What a run has done so far; waits for the device."""
    evaluations, decider = tuple(_evaluated(run)), run.decider
    return RunReport(
        label=run.label,
        summary="" if run.calibrator else decider.summary,
        details=f"{decider.details}, kept on {run.storage.store}",
        evaluations=evaluations,
        mended=run.mended,
        curves=_curves(run, evaluations),
        over=_over(run),
        bytes_held=run.cache.peak_bytes,
        warnings=(*run.warnings, *decider.notes),
        shortfall=decider.shortfall,
        expected=decider.expected,
    )


def gain(speedup: float, computed: int, evaluations: int, expected: Sequence[float | None]) -> str:
    """What a sampling gains, as a short text.

    Args:
        speedup: Planned or measured.
        computed, evaluations: Numbers of computed evaluations and of all evaluations.
        expected: Expected difference of each plan from the uncached run, None if unknown.
    """
    said = f"{speedup:.1f}x, {computed} of {evaluations} computed"
    known = [each for each in expected if each is not None]
    if not known or len(known) < len(expected) or computed == evaluations:
        return said
    return f"{said}. Expected difference: {in_words(math.hypot(*known))}."


def nothing_to_gain(evaluations: int) -> str:
    """The same for a run that is too short to skip anything."""
    return f"nothing to gain: {evaluations} steps"


def _over(run: Run) -> Over:
    if any(each.level is not None for each in run.evaluations):
        return "level"
    placed = any(curve.over == "fraction" for curve in run.decider.curves.values())
    return "fraction" if placed and not run.calibrator else "sigma"


def _evaluated(run: Run) -> Iterable[Evaluated]:
    curve = next(iter(run.decider.curves.values()), None)
    for each in run.evaluations:
        place = curve.place(each.place, run.decider.course.trajectory) if curve else each.place
        error = each.error if each.skipped else None
        yield Evaluated(each.sigma, each.step, place, each.outcome, each.seconds, error)


def _curves(run: Run, evaluations: Sequence[Evaluated]) -> dict[str, tuple[float, ...]]:
    """The curves that a run used or measured.

    Measured curves are returned only for branches that took part in every evaluation.
    """
    if run.calibrator is None:
        return {
            branch: tuple(curve.log_norm(each.place) for each in evaluations)
            for branch, curve in run.decider.curves.items()
        }
    curves = {}
    for branch, ratios in run.calibrator.ratios().items():
        if len(ratios) == len(evaluations) and all(math.isfinite(r) and r > 0 for r in ratios):
            curves[branch] = tuple(itertools.accumulate(map(math.log, ratios)))
    return curves


def _seconds(evaluations: Iterable[Evaluated]) -> tuple[list[float], list[float]]:
    """Times of the computed evaluations, and of the skipped ones."""
    kinds: tuple[list[float], list[float]] = ([], [])
    for each in evaluations:
        kinds[each.skipped].append(each.seconds)
    return kinds


def _if_computed(evaluations: Sequence[Evaluated]) -> list[float]:
    """Estimated time of each evaluation if it were computed; empty if none was computed."""
    computed = [place for place, each in enumerate(evaluations) if not each.skipped]
    if not computed:
        return []
    nearest = [
        sorted(computed, key=lambda other, here=here: abs(other - here))[:_NEAREST]
        for here in range(len(evaluations))
    ]
    return [median(evaluations[place].seconds for place in places) for places in nearest]


def _times(runs: Sequence[RunReport]) -> str:
    kinds = _seconds(each for run in runs for each in run.evaluations)
    parts = [f"{sum(map(sum, kinds)):.2f} s for all evaluations"]
    for name, seconds in zip(("computed", "skipped"), kinds, strict=True):
        parts += [f"{name} {median(seconds):.3g} s each"] if seconds else []
    return ", ".join(parts)


def _computed(runs: Sequence[RunReport]) -> str:
    """How many were computed and why: "24", or for several runs "24 = 12 + 12"."""
    counts = [run.computed for run in runs]
    parts = f" = {' + '.join(map(str, counts))}" if len(counts) > 1 else ""
    computed = (each for run in runs for each in run.evaluations if not each.skipped)
    reasons = Counter(each.reason.value for each in computed)
    told = ", ".join(f"{name} {count}" for name, count in reasons.items())
    return f"{sum(counts)}{parts} ({told or 'none'})"
