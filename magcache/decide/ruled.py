"""Schedules: which evaluations of a run are computed and which are skipped.

A `Decider` makes the decision of each evaluation as the run reaches it; `plan` asks the same
decider beforehand, for samplers whose σ are known.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..blocks import Method, weights
from ..curves import GuidedGrams, MagnitudeCurve, Trajectory
from .rule import Reason, Rule, RuleState

FEW_STEPS = 9  # below this many steps there is little to gain
_SLACK = 1e-6  # of the trajectory: σ come as float32 from the hosts


@dataclass
class Decider:
    """Decides the evaluations of one run, in order, for all branches together.

    Attributes:
        rule: The settings in force.
        curves: Magnitude curve of each branch.
        trajectory: The whole trajectory; `retention` and `refresh` are fractions of it.
        steps: Steps of this run, for `start_step` and `end_step`.
        predict: How a residual follows from the last one, see `magcache.blocks.weights`.
        grams: If given, residuals are predicted from the last two by them instead.
        outside_curve: Whether a noise level lay outside the curve.
        notes: What the report should say.
    """

    rule: Rule
    curves: Mapping[str, MagnitudeCurve]
    trajectory: Trajectory
    steps: int
    predict: Method = "reuse"
    grams: GuidedGrams | None = None
    outside_curve: bool = False
    notes: list[str] = field(default_factory=list)
    _state: RuleState = field(init=False)
    _previous: float | None = None

    def __post_init__(self) -> None:
        self._state = RuleState(self.rule)

    @property
    def keep(self) -> int:
        """How many residuals of a branch are used."""
        return 2 if self.grams else 1

    @property
    def predicts(self) -> bool:
        """Whether residuals are predicted from Gram curves."""
        return self.grams is not None

    @property
    def following(self) -> int | None:
        """How many evaluations will be skipped behind this one; not known beforehand."""
        return None

    @property
    def skips_nothing(self) -> bool:
        return self.rule.skips_nothing

    @property
    def summary(self) -> str:
        return f"threshold {self.rule.threshold:g}, K {self.rule.max_skip}"

    @property
    def details(self) -> str:
        rule = self.rule
        window = f"steps {rule.start_step} to {rule.end_step}"
        how = "predicted from the last 2" if self.grams else self.predict
        return f"retention {rule.retention:g}, {window}, residuals: {how}"

    def decide(self, sigma: float, step: int, branches: Iterable[str]) -> Reason:
        """Decides the next evaluation.

        Args:
            sigma: Its noise level.
            step: Its step in this run.
            branches: Names of the curves that take part.
        """
        previous, self._previous = self._previous, sigma
        barred = self._barred(previous, sigma, step)
        if barred is None and previous is not None:
            return self._state.decide({b: self._ratio(b, previous, sigma) for b in branches})
        self._state.restart()
        return barred or Reason.FIRST

    def computed(self) -> None:
        """Tells that the evaluation was computed although the decision was to skip it."""
        self._state.restart()

    def _barred(self, previous: float | None, sigma: float, step: int) -> Reason | None:
        if previous is None:
            return Reason.FIRST
        if self.rule.skips_nothing:
            return Reason.OFF
        if not self.rule.allows_step(step, self.steps):
            return Reason.WINDOW
        here = self.trajectory.fraction(sigma) + _SLACK
        # The published rule counts whole steps: int(T·retention).
        protected = int(self.trajectory.steps * self.rule.retention) / self.trajectory.steps
        if here < protected:
            return Reason.RETENTION
        before = self.trajectory.fraction(previous) + _SLACK
        if self.rule.refresh is not None and before < self.rule.refresh <= here:
            return Reason.REFRESH
        return None

    def curve(self, branch: str) -> MagnitudeCurve:
        """The curve of a branch; a branch without one of its own follows the first."""
        return self.curves.get(branch) or next(iter(self.curves.values()))

    def position(self, curve: MagnitudeCurve, sigma: float) -> float:
        """Where `sigma` lies on a curve."""
        return sigma if curve.over == "sigma" else self.trajectory.fraction(sigma)

    def weights(
        self, branches: Sequence[str], cached: Sequence[float], sigma: float
    ) -> list[float]:
        """The weight of each cached residual, the newest last, in the one at `sigma`."""
        if self.grams:
            return self.grams.predict(branches, sigma, cached)[0]
        curve = self.curve(branches[0])
        places = [self.position(curve, at) for at in cached]
        return weights(self.predict, curve, places, self.position(curve, sigma))

    def _ratio(self, branch: str, previous: float, sigma: float) -> float | None:
        curve = self.curve(branch)
        before, here = self.position(curve, previous), self.position(curve, sigma)
        self.outside_curve |= not (curve.covers(before) and curve.covers(here))
        return curve.ratio(before, here)


@dataclass(frozen=True)
class Schedule:
    """A run as planned: σ of each evaluation, and whether and why it is computed."""

    sigmas: tuple[float, ...]
    reasons: tuple[Reason, ...]

    def __str__(self) -> str:
        return "".join("." if r is Reason.SKIPPED else "#" for r in self.reasons)

    @property
    def computed(self) -> int:
        return len(self.reasons) - self.skipped

    @property
    def skipped(self) -> int:
        return self.reasons.count(Reason.SKIPPED)

    def speedup(self, skip_cost: float = 0.0) -> float:
        """Evaluations over their cost; `skip_cost` is a skipped one's share of a computed one."""
        cost = self.computed + skip_cost * self.skipped
        return len(self.reasons) / cost if cost else 1.0


def plan(
    rule: Rule,
    curves: Mapping[str, MagnitudeCurve],
    trajectory: Trajectory,
    sigmas: Sequence[float] | None = None,
) -> Schedule:
    """The schedule of a run of one evaluation a step, made without running anything.

    Args:
        rule: Settings.
        curves: Magnitude curve of each branch that takes part.
        trajectory: The whole trajectory.
        sigmas: σ of each evaluation of the run; the whole trajectory by default.
    """
    run = trajectory.sigmas if sigmas is None else tuple(sigmas)
    decider = Decider(rule, curves, trajectory, steps=len(run))
    reasons = (decider.decide(sigma, step, curves) for step, sigma in enumerate(run))
    return Schedule(run, tuple(reasons))
