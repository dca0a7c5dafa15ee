"""Decisions from Gram curves: by target speed-up or by expected error."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..curves import CLOSE, GramCurve, GuidedGrams, MagnitudeCurve
from .correction import Correction
from .rule import Reason, Rule
from .ruled import FEW_STEPS
from .search import Costs, best_schedule, costs_of

LEAST_GAIN = 1.1  # a speed-up below this is not worth any difference
_FEWEST = 5  # computed evaluations; with fewer, as many plain steps are as good
_SHORT_RUN = 12  # steps; in a shorter one it takes one evaluation more
_FITS = 1.5  # errors so many times the expected ones are nothing unusual: prompts differ
_MORE = 0.25  # of the planned evaluations: as many more as about halve the error
_CORRECTED = "errors are larger than the calibration's"


@dataclass(frozen=True)
class Target:
    """What is asked for; one of `speedup` and `error`.

    Attributes:
        speedup: Evaluations over computed ones; 1 or less skips nothing.
        error: Largest expected error of a predicted residual, as a share of its norm.
        keep: How many residuals a branch keeps to predict from: 1, 2 or 3.
        start_step, end_step: First and last step in which skipping is allowed; negative ones
            count from the end.

    Raises:
        ValueError: A setting is out of its range, or both or none are given.
    """

    speedup: float | None = None
    error: float | None = None
    keep: int = 2
    start_step: int = 0
    end_step: int = -1

    def __post_init__(self) -> None:
        if (self.speedup is None) == (self.error is None):
            raise ValueError("ask for a speedup or for an error, one of the two")
        if self.speedup is not None and not 1 <= self.speedup <= 10:
            raise ValueError(f"speedup is a factor from 1 to 10, got {self.speedup}")
        if self.error is not None and not 0 <= self.error < 1:
            raise ValueError(f"error is a share from 0 to 1, got {self.error}")
        if self.keep not in (1, 2, 3):
            raise ValueError(f"keep must be 1, 2 or 3, got {self.keep}")
        Rule(0, 0, 0, self.start_step, self.end_step)  # says what is wrong with the window

    @property
    def skips_nothing(self) -> bool:
        return self.speedup == 1 or self.error == 0

    def __str__(self) -> str:
        if self.speedup is not None:
            return f"speed-up {self.speedup:g} asked"
        return f"expected error up to {self.error:g}"


@dataclass
class PlannedDecider:
    """Decides the evaluations of one run, for all branches together.

    A target speed-up is planned before the first evaluation. A sampler that evaluates between
    the σ it was given leaves the plan; from there on the expected error decides, with the bound
    that gives the planned number on the given σ.

    Attributes:
        target: What is asked for.
        grams: Gram curve of each branch.
        sigmas: σ of the run's evaluations as far as they are known beforehand, falling.
        step_of: The step of this run that each of them belongs to.
        end: σ behind the last one.
        steps: Steps of this run.
        guidance: CFG scale, by which the branches' errors are weighed.
        corrects: Whether the run's own errors, once seen, correct the expected ones.
        notes: What the report should say.
    """

    target: Target
    grams: Mapping[str, GramCurve]
    sigmas: Sequence[float]
    step_of: Sequence[int]
    end: float
    steps: int
    guidance: float = 1.0
    corrects: bool = True
    notes: list[str] = field(default_factory=list)
    outside_curve: bool = False
    _cached: list[float] = field(default_factory=list)
    _next: int = 0
    _now: float = 0.0
    _left_plan: bool = False
    _correction: Correction = field(default_factory=Correction)
    _added: int = 0

    @property
    def keep(self) -> int:
        return self.target.keep

    @property
    def predicts(self) -> bool:
        """Whether residuals are predicted from Gram curves."""
        return True

    @property
    def following(self) -> int | None:
        """How many evaluations the plan skips behind this one; None where there is no plan."""
        if not self._plan_holds:
            return None
        ahead = self._plan[self._next :]
        return ahead.index(True) if True in ahead else len(ahead)

    @property
    def skips_nothing(self) -> bool:
        return self.target.skips_nothing

    @property
    def curves(self) -> dict[str, MagnitudeCurve]:
        """Magnitude curve of each branch."""
        return {branch: gram.norms for branch, gram in self.grams.items()}

    @property
    def summary(self) -> str:
        return str(self.target)

    @property
    def details(self) -> str:
        window = f"steps {self.target.start_step} to {self.target.end_step}"
        return f"{window}, residuals: predicted from the last {self.keep}"

    def decide(self, sigma: float, step: int, branches: Iterable[str]) -> Reason:
        """Decides the next evaluation: its σ, its step in this run, the branches taking part."""
        self._now = sigma
        reason = self._decide(sigma, step, list(branches) or list(self.grams))
        if reason is not Reason.SKIPPED:
            self.computed()
        return reason

    def computed(self) -> None:
        """Tells that the evaluation is computed."""
        self._cached = [*self._cached, self._now][-self.keep :]

    def prediction(
        self, branches: Sequence[str], sigma: float, cached: Sequence[float]
    ) -> tuple[list[float], float]:
        """See `GuidedGrams.predict`."""
        return GuidedGrams(self.grams, self.guidance).predict(branches, sigma, cached)

    def weights(
        self, branches: Sequence[str], cached: Sequence[float], sigma: float
    ) -> list[float]:
        """The weight of each cached residual, the newest last, in predicting the one at `sigma`."""
        return self.prediction(branches, sigma, cached)[0]

    def observe(self, expected: float, found: float) -> None:
        """Takes in how good a prediction was: its expected and its true relative error."""
        self._correction.add(expected, found)
        if self._plan_holds and self._correction.factor > _FITS:
            self._compute_more()

    def _decide(self, sigma: float, step: int, branches: Sequence[str]) -> Reason:
        planned = self._planned(sigma)
        if not self._cached:
            return Reason.FIRST
        if self.skips_nothing:
            return Reason.OFF
        if not self._window.allows_step(step, self.steps):
            return Reason.WINDOW
        if self._little_to_gain:
            return Reason.LITTLE_GAIN
        self.outside_curve |= not all(g.norms.covers(sigma) for g in self.grams.values())
        if planned is not None:
            return Reason.PLANNED if planned else Reason.SKIPPED
        error = self.prediction(branches, sigma, self._cached)[1] * self._correction.factor
        return Reason.SKIPPED if error <= self._bound else Reason.ERROR

    def _planned(self, sigma: float) -> bool | None:
        """Whether the plan computes this evaluation; None without a plan, or off it."""
        if not self._plan_holds:
            return None
        place = self._next
        if place >= len(self.sigmas) or abs(self.sigmas[place] - sigma) > CLOSE * sigma:
            self._left_plan = True
            return None
        self._next += 1
        return self._plan[place]

    @property
    def _plan_holds(self) -> bool:
        """Whether there is a plan, and the sampler has not left it."""
        return self.target.speedup is not None and not self._left_plan and bool(self._plan)

    def _compute_more(self) -> None:
        """Plans the rest of the run anew, with more evaluations where errors are too large."""
        done, most = self._next, _MORE * self._wanted
        more = int(most * math.log2(self._correction.factor / _FITS)) - self._added
        here = max(place for place in range(done) if self._plan[place])
        rest = sum(self._plan[done:])
        if more < 1:
            return
        tail = best_schedule(self._costs.after(here), 1 + rest + more)[done - here :]
        if (more := sum(tail) - rest) > 0:
            self._plan[done:] = tail
            self._added += more
            self.notes[:] = [note for note in self.notes if _CORRECTED not in note]
            self.notes.append(f"{_CORRECTED}: {self._added} evaluations more are computed")

    @cached_property
    def _window(self) -> Rule:
        return Rule(1, 1, 0, self.target.start_step, self.target.end_step)

    @cached_property
    def _costs(self) -> Costs:
        allowed = [self._window.allows_step(step, self.steps) for step in self.step_of]
        return costs_of(self.grams, self.sigmas, self.end, self.guidance, allowed, keep=self.keep)

    @property
    def _asked(self) -> int:
        """How many evaluations the target speed-up leaves to be computed."""
        assert self.target.speedup is not None
        return int(len(self.sigmas) / self.target.speedup + 1e-9)

    @property
    def _wanted(self) -> int:
        """The same, but not fewer than are worth it."""
        part = min(1.0, len(self.sigmas) / self.steps)  # of two experts each has its own
        return max(math.ceil(fewest_worth(self.steps) * part), self._asked)

    @cached_property
    def _plan(self) -> list[bool]:
        plan, count = best_schedule(self._costs, self._wanted), len(self.sigmas)
        if sum(plan) > self._asked:
            why = "cannot be reached here"
            if sum(plan) <= (fewest := fewest_worth(self.steps)):
                why = f"leaves fewer than {fewest} evaluations: as many plain steps are as good"
            self.notes.append(
                f"a speed-up of {self.target.speedup:g} {why}; the best is {count / sum(plan):.2f}"
            )
        return plan

    @cached_property
    def _little_to_gain(self) -> bool:
        if self.target.speedup is None or self.skips_nothing:
            return False
        count = len(self.sigmas)
        if self.steps >= FEW_STEPS and count >= LEAST_GAIN * sum(self._plan):
            return False
        self.notes.append(f"{self.steps} steps: there is little to gain, everything is computed")
        return True

    @cached_property
    def _bound(self) -> float:
        """The largest expected error of a skipped evaluation."""
        if self.target.error is not None:
            return self.target.error
        candidates = np.unique(self._costs.errors[self._costs.errors > 0])
        wanted = sum(self._plan)
        fewest = bisect_left(
            candidates, -wanted, key=lambda bound: -_computed_below(self._costs, bound)
        )
        return float(candidates[min(fewest, len(candidates) - 1)])


def fewest_worth(steps: int) -> int:
    """How many computed evaluations a run must have to be better than as many plain steps."""
    return _FEWEST + (steps < _SHORT_RUN)


def _computed_below(costs: Costs, bound: float) -> int:
    """How many evaluations are computed where an expected error above `bound` is not taken."""
    count, here, gap, computed = costs.evaluations, 0, 0, 1
    longest = len(costs.errors) - 1
    for place in range(1, count):
        near = place - here <= longest
        if not (near and costs.may_skip[place] and costs.errors[gap, here, place] <= bound):
            gap, here, computed = min(place - here, longest), place, computed + 1
    return computed
