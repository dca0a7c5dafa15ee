"""What one sampling did, as plain figures: it may be kept, since it keeps nothing else alive."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Literal

from ...curves import Measurement
from ...decide import Reason
from ...report import Report
from ...run import Run


@dataclass(frozen=True)
class Evaluated:
    """One evaluation, as it went.

    Attributes:
        sigma: Its noise level.
        place: Where that lies on the curve: σ, or the fraction of the trajectory.
        reason: Why it was computed, or that it was skipped.
        seconds: Time of its model calls.
        error: Of a skipped one, the expected relative error of the predicted residual; None where
            no calibration with Gram curves tells it.
    """

    sigma: float
    place: float
    reason: Reason
    seconds: float
    error: float | None = None

    @property
    def skipped(self) -> bool:
        return self.reason is Reason.SKIPPED


@dataclass(frozen=True)
class Record:
    """One sampling.

    Attributes:
        headline: One line.
        text: All there is to say.
        evaluations: In order; none where the model ran uncached.
        curves: Of each branch log‖r‖ at every evaluation, up to a constant.
        over: What `place` is.
    """

    headline: str
    text: str
    evaluations: tuple[Evaluated, ...] = ()
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    over: Literal["sigma", "fraction"] = "sigma"

    def with_line(self, line: str) -> "Record":
        """The same with one more line behind the headline."""
        headline, _, rest = self.text.partition("\n")
        return replace(self, text=f"{headline}\n{line}\n{rest}".rstrip())


def record(
    report: Report, asked: str, made_with: Mapping[str, Any], measured: Mapping[str, Measurement]
) -> Record:
    """The record of a sampling that has ended; waits for the device's clock.

    Args:
        report: What it did.
        asked: What the node's widgets asked for.
        made_with: Sampler, guidance and so on, see `host.described`.
        measured: What a calibrating sampling has measured.
    """
    run = report.runs[-1] if report.runs else None
    evaluations = _evaluations(run) if run else ()
    headline, _, rest = str(report).partition("\n")
    lines = [headline, f"  asked      {asked}", f"  sampling   {_sampling(made_with)}"]
    lines += [f"  times      {_times(evaluations)}"] if evaluations else []
    text = "\n".join([*lines, rest]).rstrip()
    if run is None:
        return Record(headline, text)
    curves = _measured(measured, len(evaluations)) if run.calibrator else _used(run, evaluations)
    over = "sigma"
    if not run.calibrator and any(c.over == "fraction" for c in run.decider.curves.values()):
        over = "fraction"
    return Record(headline, text, evaluations, curves, over)


def _evaluations(run: Run) -> tuple[Evaluated, ...]:
    return tuple(
        Evaluated(each.sigma, _place(run, each.sigma), each.outcome, each.seconds, each.error)
        for each in run.evaluations
    )


def _place(run: Run, sigma: float) -> float:
    """Where a noise level lies on the run's curves."""
    curve = next(iter(run.decider.curves.values()), None)
    return curve.place(sigma, run.decider.course.trajectory) if curve else sigma


def _used(run: Run, evaluations: tuple[Evaluated, ...]) -> dict[str, tuple[float, ...]]:
    """The curves that the run went by."""
    return {
        branch: tuple(curve.log_norm(each.place) for each in evaluations)
        for branch, curve in run.decider.curves.items()
    }


def _measured(
    measured: Mapping[str, Measurement], evaluations: int
) -> dict[str, tuple[float, ...]]:
    """The curves that the run measured, of branches that took part in every evaluation."""
    curves = {}
    for branch, measurement in measured.items():
        ratios = (1.0, *measurement.ratios[1:])
        if len(ratios) == evaluations and all(math.isfinite(r) and r > 0 for r in ratios):
            curves[branch] = tuple(itertools.accumulate(map(math.log, ratios)))
    return curves


def _sampling(made_with: Mapping[str, Any]) -> str:
    steps = max(1, len(made_with.get("sigmas", ())) - 1)
    parts = [str(made_with.get("sampler", "")), f"{steps} steps"]
    parts += [f"CFG {made_with['cfg']:g}"] if "cfg" in made_with else []
    parts += [f"shift {made_with['shift']:g}"] if "shift" in made_with else []
    parts += [f"latent {'x'.join(map(str, made_with['latent']))}"] if "latent" in made_with else []
    return ", ".join(part for part in parts if part)


def _times(evaluations: tuple[Evaluated, ...]) -> str:
    parts = [f"{sum(each.seconds for each in evaluations):.2f} s in the model"]
    for name, skipped in (("computed", False), ("skipped", True)):
        seconds = [each.seconds for each in evaluations if each.skipped is skipped]
        parts += [f"{name} {median(seconds):.3g} s each"] if seconds else []
    return ", ".join(parts)
