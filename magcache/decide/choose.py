"""Makes the decider of a run."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

from ..curves import Comparison, GuidedGrams, Learned, Lesson, MagnitudeCurve, prior
from .by_plan import PlanDecider
from .by_rule import RuleDecider
from .decider import Decider, Decision, Holding
from .rule import Rule
from .schedule import Course, Reason, Schedule
from .search import Grams
from .target import Target


class ComputeAll:
    """Computes every evaluation, for a run that is measured."""

    keep, skips_nothing, predicts, observes = 1, True, False, False
    summary = details = "everything is computed"
    curves: Mapping[str, MagnitudeCurve] = {}
    notes: Sequence[str] = ()
    shortfall = ""
    expected = None

    def __init__(self, course: Course) -> None:
        self.course = course
        self.basis: Mapping[str, Any] = {
            "settings": self.summary,
            "curve": [],
            "noise levels": course.sigmas,
        }

    def decide(self, sigma: float, step: int, held: Holding) -> Decision:
        """See `Decider`."""
        return Decision(Reason.OFF)

    def schedule(
        self,
        evaluations: Sequence[tuple[float, int]] | None = None,
        held: Holding | None = None,
    ) -> Schedule:
        """See `Decider`."""
        evaluations = self.course.evaluations if evaluations is None else evaluations
        sigmas = tuple(sigma for sigma, _ in evaluations)
        return Schedule(sigmas, (Reason.OFF,) * len(sigmas), (*self.notes,))

    def predict(
        self, curves: Sequence[str], sigma: float, held: Sequence[float]
    ) -> tuple[list[float], float | None]:
        """See `Decider`; nothing is predicted."""
        return [0.0] * len(held), None

    def computed(self) -> None:
        """Does nothing: every evaluation is computed anyway."""

    def lessons(self, comparisons: Iterable[Comparison]) -> list[Lesson]:
        """See `Decider`."""
        return []

    def observe(self, expected: float, found: float) -> None:
        """Does nothing: there are no predictions."""


@overload
def decider_for(
    asked: Rule,
    course: Course,
    curves: Mapping[str, MagnitudeCurve],
    grams: Grams = ...,
    guidance: float = ...,
    learned: Learned | None = ...,
) -> RuleDecider: ...
@overload
def decider_for(
    asked: Rule | Target | None,
    course: Course,
    curves: Mapping[str, MagnitudeCurve] = ...,
    grams: Grams = ...,
    guidance: float = ...,
    learned: Learned | None = ...,
) -> Decider: ...
def decider_for(
    asked: Rule | Target | None,
    course: Course,
    curves: Mapping[str, MagnitudeCurve] | None = None,
    grams: Grams | None = None,
    guidance: float = 1.0,
    learned: Learned | None = None,
) -> Decider:
    """The decider of one run.

    Args:
        asked: Settings of the rule, or the target to plan for; None computes everything.
        course: The run. For a plan from the prior, its σ must be flow levels.
        curves: Magnitude curve of each branch.
        grams: Gram curve of each branch. A plan is made from them or, without them, from the
            prior, which is about the model's output. The rule predicts with them or, without
            them, reuses the last computed evaluation.
        guidance: CFG scale, which weights the branches' errors; 1 without guidance.
        learned: What earlier runs have taught about the model. Used with the prior only.

    Raises:
        ValueError: The rule is asked for without magnitude curves.
    """
    if asked is None:
        return ComputeAll(course)
    if isinstance(asked, Target):
        if grams:
            return PlanDecider(asked, course, grams, guidance)
        signals = ["mean"] if guidance == 1 else ["mean", "difference"]
        members = [{name: known[name] for name in signals} for known in prior.members().values()]
        grams, learned = prior.mean(members), learned or Learned()
        return PlanDecider(asked, course, grams, guidance, members, learned)
    if not curves:
        raise ValueError("the rule needs magnitude curves")
    return RuleDecider(asked, course, curves, GuidedGrams(grams, guidance) if grams else None)
