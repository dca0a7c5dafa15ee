"""The decider protocol: what a decider is told, and what it answers."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from ..curves import Comparison, Lesson, MagnitudeCurve
from .schedule import Course, Reason, Schedule

OUTSIDE = "some noise levels are outside the calibrated range, so the curve is extrapolated"


@dataclass(frozen=True)
class Held:
    """What the cache holds of one branch.

    Attributes:
        curves: Names of the curves that the branch follows: one, or one per part of its batch.
        sigmas: Noise levels of the residuals held, newest last.
        room: How many residuals it can hold.
    """

    curves: tuple[str, ...]
    sigmas: tuple[float, ...]
    room: int

    def with_one_more(self, sigma: float) -> "Held":
        """The same after computing an evaluation at `sigma`."""
        return replace(self, sigmas=(*self.sigmas, sigma)[-self.room :])


Holding = Mapping[Hashable, Held]
"""What the cache holds, by branch."""


def curves_of(held: Holding) -> list[str]:
    """Names of the curves that the branches follow, without duplicates."""
    return list(dict.fromkeys(name for each in held.values() for name in each.curves))


def nothing_held(curves: Mapping[str, Any], room: int) -> Holding:
    """An empty cache with one branch per curve."""
    return {name: Held((name,), (), room) for name in curves}


@dataclass(frozen=True)
class Decision:
    """The decision for one evaluation.

    Attributes:
        reason: Why it is computed, or `Reason.SKIPPED`.
        weights: For each skipped branch, the weights of its cached residuals, newest last. A
            branch without weights is computed.
        error: Largest expected relative error of a prediction; None without a Gram curve.
        following: How many evaluations the plan skips after this one; None without a plan.
    """

    reason: Reason
    weights: Mapping[Hashable, Sequence[float]] = field(default_factory=dict)
    error: float | None = None
    following: int | None = None

    def leaves(self, held: Holding, sigma: float) -> Holding:
        """What the cache holds after the evaluation, given what it held before."""
        return {
            branch: before if branch in self.weights else before.with_one_more(sigma)
            for branch, before in held.items()
        }


class Decider(Protocol):
    """Decides the evaluations of one run, in order, for all branches together.

    It is told each time what the cache holds, and keeps no copy of that. If the cache holds less
    than it relied on, it computes more, and says so.

    Attributes:
        course: The run.
        curves: Magnitude curve of each branch.
        keep: How many computed evaluations of a branch it predicts from, and so how many residuals
            the cache should hold.
        skips_nothing: Whether it always computes every evaluation.
        predicts: Whether Gram curves predict a skipped evaluation, rather than it reusing the
            last one.
        observes: Whether it wants to be told how good its predictions are.
        summary, details: The most important settings, and the others.
        expected: Expected difference of its plan from the uncached run, see `in_words`; None if
            unknown.
        basis: Everything its decisions depend on: texts, and arbitrarily nested numbers.
        notes: Notes for the report.
        shortfall: The note that says why the run gains less than asked for, or differs more; "" if
            it does not.
    """

    @property
    def course(self) -> Course: ...
    @property
    def curves(self) -> Mapping[str, MagnitudeCurve]: ...
    @property
    def keep(self) -> int: ...
    @property
    def skips_nothing(self) -> bool: ...
    @property
    def predicts(self) -> bool: ...
    @property
    def observes(self) -> bool: ...
    @property
    def summary(self) -> str: ...
    @property
    def details(self) -> str: ...
    @property
    def expected(self) -> float | None: ...
    @property
    def basis(self) -> Mapping[str, Any]: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def shortfall(self) -> str: ...

    def decide(self, sigma: float, step: int, held: Holding) -> Decision:
        """Decides the next evaluation.

        Args:
            sigma: Its noise level.
            step: Its step in this run.
            held: What the cache holds for the branches that take part.
        """
        ...

    def computed(self) -> None:
        """Reports that an evaluation was computed although the decision was to skip it."""
        ...

    def schedule(
        self,
        evaluations: Sequence[tuple[float, int]] | None = None,
        held: Holding | None = None,
    ) -> Schedule:
        """What it would decide from here on. Does not change the decider.

        Args:
            evaluations: σ and step of each; those of the whole run by default.
            held: What the cache holds; nothing by default.
        """
        ...

    def predict(
        self, curves: Sequence[str], sigma: float, held: Sequence[float]
    ) -> tuple[list[float], float | None]:
        """Predicts an evaluation at `sigma` from those held, newest last.

        Returns:
            A weight for each, and the expected relative error, None without a Gram curve.
        """
        ...

    def lessons(self, comparisons: Iterable[Comparison]) -> list[Lesson]:
        """What a run has taught about its model, from the predictions that it could check."""
        ...

    def observe(self, expected: float, found: float) -> None:
        """Reports how good a prediction was: its expected and its measured relative error."""
        ...


class State(Protocol):
    """Progress of a run, as a decider sees it. Immutable."""

    @property
    def notes(self) -> Mapping[str, str]:
        """Notes for the report, by topic."""
        ...


S = TypeVar("S", bound=State)
_SHORT_OF = "gain", "steps", "speed-up", "draft"  # topics of notes


class Stepwise(Generic[S]):
    """A decider whose decisions are pure functions of a state and give the next state."""

    keep: int
    course: Course
    curves: Mapping[str, MagnitudeCurve]
    _state: S

    def predict(
        self, curves: Sequence[str], sigma: float, held: Sequence[float]
    ) -> tuple[list[float], float | None]:
        """See `Decider`."""
        raise NotImplementedError

    def _next(self, state: S, sigma: float, step: int, held: Holding) -> tuple[Decision, S]:
        """The decision in a state, and the next state."""
        raise NotImplementedError

    def _skipped(self, sigma: float, held: Holding, following: int | None = None) -> Decision:
        """The decision to skip all branches that have a cached residual."""
        weights = {
            branch: self.predict(each.curves, sigma, each.sigmas)[0]
            for branch, each in held.items()
            if each.sigmas
        }
        return Decision(Reason.SKIPPED, weights, self._error(sigma, held), following)

    def _error(self, sigma: float, held: Holding) -> float | None:
        """The largest expected error. Branches that hold the same σ are predicted together."""
        alike: dict[tuple[float, ...], list[str]] = {}
        for each in held.values():
            alike.setdefault(each.sigmas, []).extend(each.curves)
        errors = [self.predict(names, sigma, at)[1] for at, names in alike.items() if at]
        return max((error for error in errors if error is not None), default=None)

    @property
    def notes(self) -> Sequence[str]:
        return list(self._state.notes.values())

    @property
    def shortfall(self) -> str:
        return next((note for topic, note in self._state.notes.items() if topic in _SHORT_OF), "")

    def decide(self, sigma: float, step: int, held: Holding) -> Decision:
        """See `Decider`."""
        decision, self._state = self._next(self._state, sigma, step, held)
        return decision

    def schedule(
        self,
        evaluations: Sequence[tuple[float, int]] | None = None,
        held: Holding | None = None,
    ) -> Schedule:
        """See `Decider`."""
        state, reasons = self._state, []
        held = nothing_held(self.curves, self.keep) if held is None else held
        evaluations = self.course.evaluations if evaluations is None else evaluations
        for sigma, step in evaluations:
            decision, state = self._next(state, sigma, step, held)
            held = decision.leaves(held, sigma)
            reasons.append(decision.reason)
        sigmas = tuple(sigma for sigma, _ in evaluations)
        return Schedule(sigmas, tuple(reasons), tuple(state.notes.values()))
