"""What a run did: a text summary, figures for programs, and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .decide import Schedule
from .run import Run


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
            found += [*run.warnings, *run.decider.notes]
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
        from .pictures import draw_schedule, save

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
