"""Decides by the published rule."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..curves import Comparison, GuidedGrams, Lesson, MagnitudeCurve
from .decider import OUTSIDE, Decision, Holding, Stepwise, curves_of
from .rule import Rule, RuleState
from .schedule import FEW_STEPS, Course, Reason

_SLACK = 1e-6  # of the trajectory; hosts give σ in float32
_PLACED = "the curve's noise levels are unknown, so it is applied by fraction of the trajectory"


@dataclass(frozen=True)
class _State:
    """Progress of a run.

    Attributes:
        drift: What the skipped evaluations have accumulated.
        notes: Notes for the report, by topic.
        previous: σ of the previous evaluation.
    """

    drift: RuleState
    notes: Mapping[str, str]
    previous: float | None = None


@dataclass
class RuleDecider(Stepwise[_State]):
    """Decides the evaluations of one run by the rule.

    Attributes:
        rule: The settings in use.
        course: The run; `retention` and `refresh` are fractions of its trajectory.
        curves: Magnitude curve of each branch.
        grams: If given, they predict a skipped evaluation from the last two computed ones;
            otherwise it reuses the last one.
    """

    rule: Rule
    course: Course
    curves: Mapping[str, MagnitudeCurve]
    grams: GuidedGrams | None = None
    keep: int = field(init=False)
    observes: bool = field(default=False, init=False)
    _state: _State = field(init=False)

    def __post_init__(self) -> None:
        self.keep = 2 if self.grams else 1
        placed = any(curve.over == "fraction" for curve in self.curves.values())
        notes = {"schedule": _PLACED} if placed else {}
        if self.course.is_short and not self.skips_nothing:
            notes["steps"] = f"{self.course.whole_steps} steps: " + (
                "too few for the rule, so the difference is visible"
                if self.rule.in_short_runs
                else f"below {FEW_STEPS}, everything is computed"
            )
        self._state = _State(RuleState(self.rule), notes)

    @property
    def predicts(self) -> bool:
        return self.grams is not None

    @property
    def skips_nothing(self) -> bool:
        return self.rule.skips_nothing

    @property
    def summary(self) -> str:
        return str(self.rule)

    @property
    def details(self) -> str:
        how = "predicted from the last 2" if self.grams else "reused"
        return f"retention {self.rule.retention:g}, {self.rule.window}, residuals {how}"

    @property
    def expected(self) -> None:
        """See `Decider`. The rule does not predict the difference."""

    @property
    def basis(self) -> Mapping[str, Any]:
        return {
            "settings": f"{self.summary}, {self.details}",
            "curve": [[c.positions, c.log_norms] for c in self.curves.values()],
            "noise levels": [self.course.sigmas, self.course.trajectory.sigmas],
        }

    def computed(self) -> None:
        """See `Decider`."""
        self._state = replace(self._state, drift=RuleState(self.rule))

    def predict(
        self, curves: Sequence[str], sigma: float, held: Sequence[float]
    ) -> tuple[list[float], float | None]:
        """See `Decider`."""
        if self.grams:
            return self.grams.predict(curves, sigma, held)
        return [0.0] * (len(held) - 1) + [1.0], None

    def lessons(self, comparisons: Iterable[Comparison]) -> list[Lesson]:
        """See `Decider`."""
        return []

    def observe(self, expected: float, found: float) -> None:
        """Does nothing: the rule does not use errors."""

    def _next(
        self, state: _State, sigma: float, step: int, held: Holding
    ) -> tuple[Decision, _State]:
        drift, notes = state.drift.copy(), state.notes
        reason = self._barred(state.previous, sigma, step, held)
        if reason is None and state.previous is not None:
            ratios, inside = self._ratios(state.previous, sigma, held)
            notes = notes if inside else {**notes, "outside": OUTSIDE}
            reason = drift.decide(ratios)
        else:
            drift.restart()
        behind = _State(drift, notes, sigma)
        if reason is Reason.SKIPPED:
            return self._skipped(sigma, held), behind
        return Decision(reason or Reason.FIRST), behind

    def _ratios(
        self, previous: float, sigma: float, held: Holding
    ) -> tuple[dict[str, float | None], bool]:
        """Each branch's magnitude ratio, and whether the curves cover both noise levels."""
        ratios, inside = {}, True
        for branch in curves_of(held):
            # A branch without its own curve follows the first one.
            curve = self.curves.get(branch) or next(iter(self.curves.values()))
            before, here = (curve.place(at, self.course.trajectory) for at in (previous, sigma))
            ratios[branch] = curve.ratio(before, here)
            inside = inside and curve.covers(before) and curve.covers(here)
        return ratios, inside

    def _barred(
        self, previous: float | None, sigma: float, step: int, held: Holding
    ) -> Reason | None:
        """Why an evaluation is computed regardless of the accumulated drift, or None."""
        rule, trajectory = self.rule, self.course.trajectory
        if previous is None:
            return Reason.FIRST
        if rule.skips_nothing:
            return Reason.OFF
        if self.course.is_short and not rule.in_short_runs:
            return Reason.LITTLE_GAIN
        if not rule.window.allows(step, self.course.steps):
            return Reason.WINDOW
        here = trajectory.fraction(sigma) + _SLACK
        # The published rule counts whole steps: int(T·retention).
        if here < int(trajectory.steps * rule.retention) / trajectory.steps:
            return Reason.RETENTION
        before = trajectory.fraction(previous) + _SLACK
        if rule.refresh is not None and before < rule.refresh <= here:
            return Reason.REFRESH
        return None if any(b.sigmas for b in held.values()) else Reason.NO_RESIDUAL
