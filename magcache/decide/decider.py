"""What a decider is asked, and what it answers."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from ..curves import Comparison, Lesson, MagnitudeCurve
from .schedule import Course, Reason, Schedule

OUTSIDE = "noise levels outside the calibrated range: the curve's end slope is used"


@dataclass(frozen=True)
class Held:
    """What the cache holds of one branch.

    Attributes:
        curves: Names of the curves that the branch follows: one, or one a part of its batch.
        sigmas: Noise levels of what is held, the newest last.
        room: How many can be held of it.
    """

    curves: tuple[str, ...]
    sigmas: tuple[float, ...]
    room: int

    def with_one_more(self, sigma: float) -> "Held":
        """The same after an evaluation at `sigma` was computed."""
        return replace(self, sigmas=(*self.sigmas, sigma)[-self.room :])


Holding = Mapping[Hashable, Held]
"""What the cache holds, by branch."""


def curves_of(held: Holding) -> list[str]:
    """Names of the curves that the branches follow, each once."""
    return list(dict.fromkeys(name for each in held.values() for name in each.curves))


def nothing_held(curves: Mapping[str, Any], room: int) -> Holding:
    """What the cache holds before a run, with a branch for each curve."""
    return {name: Held((name,), (), room) for name in curves}


@dataclass(frozen=True)
class Decision:
    """What is done at one evaluation.

    Attributes:
        reason: Why it is computed, or that it is skipped.
        weights: For each branch that is skipped, the weights of what is held of it, the newest
            last. A branch without weights is computed.
        error: Largest expected error of what is predicted, as a share of its norm; None where no
            Gram curve tells it.
        following: How many evaluations are planned to be skipped behind this one; None where
            there is no plan.
    """

    reason: Reason
    weights: Mapping[Hashable, Sequence[float]] = field(default_factory=dict)
    error: float | None = None
    following: int | None = None

    def leaves(self, held: Holding, sigma: float) -> Holding:
        """What the cache holds after the evaluation, of what it held before."""
        return {
            branch: before if branch in self.weights else before.with_one_more(sigma)
            for branch, before in held.items()
        }


class Decider(Protocol):
    """Decides the evaluations of one run, in order, for all branches together.

    It is told each time what the cache holds, and keeps no copy of that. From less than it has
    counted on it computes more, and says so.

    Attributes:
        course: The run.
        curves: Magnitude curve of each branch.
        keep: How many evaluations of a branch it predicts from, so how many should be held.
        skips_nothing: Whether it computes every evaluation, whatever comes.
        predicts: Whether a skipped evaluation is predicted by Gram curves, or repeats the last.
        observes: Whether it is to be told how good its predictions are.
        summary, details: The settings that matter most, and the others.
        expected: How far from the uncached run its plan is expected to end, see `in_words`; None
            where nothing tells.
        basis: All that its decisions follow from: texts, and numbers nested in any way.
        notes: What the report should say.
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

    def decide(self, sigma: float, step: int, held: Holding) -> Decision:
        """Decides the next evaluation.

        Args:
            sigma: Its noise level.
            step: Its step in this run.
            held: What the cache holds of the branches that take part.
        """
        ...

    def computed(self) -> None:
        """Tells that an evaluation was computed although the decision was to skip it."""
        ...

    def schedule(
        self,
        evaluations: Sequence[tuple[float, int]] | None = None,
        held: Holding | None = None,
    ) -> Schedule:
        """What it would decide from here on; the decider stays as it is.

        Args:
            evaluations: σ and step of each; those of the whole run by default.
            held: What the cache holds; nothing by default.
        """
        ...

    def predict(
        self, curves: Sequence[str], sigma: float, held: Sequence[float]
    ) -> tuple[list[float], float | None]:
        """How an evaluation at `sigma` follows from those held, the newest last.

        Returns:
            A weight for each, and the expected error as a share of the norm, None where no Gram
            curve tells it.
        """
        ...

    def lessons(self, comparisons: Iterable[Comparison]) -> list[Lesson]:
        """What a run has taught of its model, from the predictions that it could check."""
        ...

    def observe(self, expected: float, found: float) -> None:
        """Tells how good a prediction was: its expected and its true relative error."""
        ...


class State(Protocol):
    """How far a run has come, as a decider sees it: never changed, only exchanged."""

    @property
    def notes(self) -> Mapping[str, str]:
        """What the report should say, by topic."""
        ...


S = TypeVar("S", bound=State)


class Stepwise(Generic[S]):
    """A decider of which each decision follows from a state, and gives the next one."""

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
        """The decision in a state, and the state behind it."""
        raise NotImplementedError

    def _skipped(self, sigma: float, held: Holding, following: int | None = None) -> Decision:
        """The decision to skip, for all branches of which something is held."""
        weights = {
            branch: self.predict(each.curves, sigma, each.sigmas)[0]
            for branch, each in held.items()
            if each.sigmas
        }
        return Decision(Reason.SKIPPED, weights, self._error(sigma, held), following)

    def _error(self, sigma: float, held: Holding) -> float | None:
        """The largest expected error, of branches together as far as the same is held of them."""
        alike: dict[tuple[float, ...], list[str]] = {}
        for each in held.values():
            alike.setdefault(each.sigmas, []).extend(each.curves)
        errors = [self.predict(names, sigma, at)[1] for at, names in alike.items() if at]
        return max((error for error in errors if error is not None), default=None)

    @property
    def notes(self) -> Sequence[str]:
        return list(self._state.notes.values())

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
