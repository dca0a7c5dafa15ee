"""Decides by a plan made from Gram curves, for a target speed-up or an expected error."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..curves import (
    CLOSE,
    Comparison,
    GramCurve,
    GuidedGrams,
    Learned,
    Lesson,
    MagnitudeCurve,
    guidance_shares,
    same_levels,
)
from .correction import Correction
from .decider import OUTSIDE, Decision, Holding, Stepwise
from .schedule import Course, Reason
from .search import (
    FINISHED,
    Costs,
    Grams,
    best_schedule,
    bound_of,
    costs_of,
    expected_error,
    hedged_schedule,
)
from .target import Target

LEAST_GAIN = 1.1  # a smaller speed-up is not worth any difference
_FEWEST = 5  # computed evaluations; fewer may be no better than as many plain steps
_SHORT_RUN = 12  # steps; a shorter run needs one more computed evaluation
_FEWEST_OF_DRAFT = 3
_LAST = 2  # final evaluations that a short run always computes: it cannot recover from errors there
_FITS = 1.5  # errors up to this many times the expected ones are normal, because prompts differ
_MEAN = "mean"


@dataclass(frozen=True)
class _State:
    """Progress of a run.

    Attributes:
        plan: Which evaluations of the course are computed. Empty without a plan, or after the
            sampler has left it.
        place: Number of planned evaluations that are past.
        count: Number of evaluations so far, including the current one.
        computed: How many of them were computed.
        rooms: Number of residuals of each branch that the plan relies on.
        lacking: Number of evaluations that were computed against the plan, because the cache
            held too little.
        notes: Notes for the report, by topic.
        begun: Whether there has been an evaluation.
    """

    plan: tuple[bool, ...]
    rooms: Mapping[str, int]
    notes: Mapping[str, str]
    begun: bool = False
    place: int = 0
    count: int = 0
    computed: int = 0
    lacking: int = 0

    @property
    def following(self) -> int | None:
        """How many evaluations the plan skips next; None without a plan."""
        if not self.plan:
            return None
        ahead = self.plan[self.place :]
        return ahead.index(True) if True in ahead else len(ahead)

    @property
    def last_computed(self) -> int:
        """Place of the last evaluation that the plan computed."""
        return max((p for p in range(self.place) if self.plan[p]), default=0)

    def noting(self, topic: str, note: str) -> Mapping[str, str]:
        return {**self.notes, topic: note}


@dataclass
class PlanDecider(Stepwise[_State]):
    """Decides the evaluations of one run by a plan, or by the expected error alone.

    For a target speed-up the plan is made before the first evaluation. A sampler that does not
    evaluate exactly once at each given σ leaves the plan. From then on, an evaluation is skipped
    if its expected error is within a bound. The bound starts at the value that would give the
    planned number of computed evaluations on the given σ. It is halved for each evaluation too few
    that has been computed so far, and doubled for each one too many.

    A plan relies on a number of cached residuals. If there is room for fewer, the rest of the run
    is planned again, with enough evaluations to keep the planned error.

    Attributes:
        target: The speed-up or error to plan for.
        course: The run.
        grams: Gram curve of each branch.
        guidance: CFG scale, which weights the branches' errors.
        members: Gram curves that the model may have; those of `grams` by default.
        learned: What earlier runs have taught about the model.
    """

    target: Target
    course: Course
    grams: Mapping[str, GramCurve]
    guidance: float = 1.0
    members: Sequence[Grams] = ()
    learned: Learned | None = None
    keep: int = field(init=False)
    curves: Mapping[str, MagnitudeCurve] = field(init=False)
    _predicted: dict[Any, tuple[list[float], float]] = field(default_factory=dict, init=False)
    _bounds: dict[Any, float] = field(default_factory=dict, init=False)
    _expected: dict[Any, float] = field(default_factory=dict, init=False)
    _correction: Correction = field(default_factory=Correction, init=False)
    _little_gain: bool = field(default=False, init=False)
    _state: _State = field(init=False)

    def __post_init__(self) -> None:
        self.keep = self.target.keep
        self.curves = {branch: gram.norms for branch, gram in self.grams.items()}
        self._state = self._beginning()

    @property
    def predicts(self) -> bool:
        return True

    @property
    def skips_nothing(self) -> bool:
        return self.target.skips_nothing

    @property
    def summary(self) -> str:
        return str(self.target)

    @property
    def details(self) -> str:
        return f"{self.target.window}, residuals predicted from the last {self.keep}"

    @property
    def expected(self) -> float | None:
        """See `Decider`. Only for plans from the prior, for which its meaning was measured."""
        state = self._state
        if not (state.plan and self.members):
            return None
        asked = (*state.rooms.items(),), state.plan
        if asked not in self._expected:
            self._expected[asked] = expected_error(self._costs(state.rooms), state.plan)
        return self._expected[asked]

    @property
    def basis(self) -> Mapping[str, Any]:
        norms = [[curve.positions, curve.log_norms] for curve in self.curves.values()]
        return {
            "settings": f"{self.summary}, {self.details}, guidance {self.guidance:g}",
            "curve": [*norms, *(gram.correlations for gram in self.grams.values())],
            "noise levels": [self.course.sigmas],
        }

    def computed(self) -> None:
        """Does nothing: the next decision is told what the cache holds."""

    def predict(
        self, curves: Sequence[str], sigma: float, held: Sequence[float]
    ) -> tuple[list[float], float]:
        """See `Decider`."""
        asked = (*curves,), sigma, (*held,)
        if asked not in self._predicted:
            grams = GuidedGrams(self.grams, self.guidance)
            self._predicted[asked] = grams.predict(curves, sigma, held)
        weights, error = self._predicted[asked]
        return weights, error * float(np.sqrt(self._ratios([sigma])[0]))

    @property
    def observes(self) -> bool:
        return self.target.error is not None or self.learned is not None

    def observe(self, expected: float, found: float) -> None:
        """See `Decider`. Corrects the expected errors of a run that an error is asked for."""
        if self.target.error is not None:
            self._correction.add(expected, found)

    def lessons(self, comparisons: Iterable[Comparison]) -> list[Lesson]:
        """See `Decider`. The error of the guided prediction, relative to the members' mean."""
        if self.learned is None:
            return []
        shares = guidance_shares(list(self.grams), self.guidance)
        levels: dict[float, list[Comparison]] = {}
        for each in comparisons:
            levels.setdefault(each.sigma, []).append(each)
        lessons = []
        for level, together in levels.items():
            size = sum(each.size**2 for each in together if each.curve == _MEAN)
            logs = {name: 2 * curve.log_norm(level) for name, curve in self.curves.items()}
            found = expected = 0.0
            for each in (each for each in together if each.curve in shares):
                share = shares[each.curve]
                found += share * (each.found * each.size) ** 2
                expected += share * each.expected**2 * math.exp(logs[each.curve] - logs[_MEAN])
            expected /= float(self._ratios([level])[0])
            if size > 0 and expected > 0:
                lessons.append((level, found / size / expected))
        return lessons

    def _next(
        self, state: _State, sigma: float, step: int, held: Holding
    ) -> tuple[Decision, _State]:
        reason = self._barred(state, step, held)
        state, planned = self._follow(self._with_room(state, held), sigma)
        if reason is None:
            covered = all(gram.norms.covers(sigma) for gram in self.grams.values())
            if not (covered or self.members):
                state = replace(state, notes=state.noting("outside", OUTSIDE))
            reason, state = self._weighed(state, sigma, held, planned)
        if reason is Reason.SKIPPED:
            return self._skipped(sigma, held, state.following), state
        state = replace(state, computed=state.computed + 1)
        return Decision(reason, following=state.following), state

    def _barred(self, state: _State, step: int, held: Holding) -> Reason | None:
        """Why an evaluation is computed regardless of its expected error, or None."""
        if not any(each.sigmas for each in held.values()):
            return Reason.NO_RESIDUAL if state.begun else Reason.FIRST
        if self.skips_nothing:
            return Reason.OFF
        if not self.target.window.allows(step, self.course.steps):
            return Reason.WINDOW
        return Reason.LITTLE_GAIN if self._little_gain else None

    def _weighed(
        self, state: _State, sigma: float, held: Holding, planned: bool | None
    ) -> tuple[Reason, _State]:
        """Decides an evaluation by the plan and its expected error."""
        if planned:
            return Reason.PLANNED, state
        error = self._error(sigma, held) or 0.0
        if planned is None:
            fits = error * self._correction.factor <= self._bound(state)
            return Reason.SKIPPED if fits else Reason.ERROR, state
        counted_on = self._counted_on(state, held)
        if counted_on == held or error <= _FITS * (self._error(sigma, counted_on) or 0.0):
            return Reason.SKIPPED, state
        lacking = state.lacking + 1
        note = f"the cache held less than planned, so {_more(lacking)}"
        return Reason.ERROR, replace(state, lacking=lacking, notes=state.noting("held", note))

    def _counted_on(self, state: _State, held: Holding) -> Holding:
        """What the plan expected the cache to hold; equal to `held` if it does, up to rounding."""
        begun = max((place for place in self.course.fresh if place < state.place), default=0)
        past = zip(self.course.sigmas[begun:], state.plan[begun : state.place - 1], strict=False)
        computed = [sigma for sigma, chosen in past if chosen]
        return {
            branch: replace(each, sigmas=planned)
            if each.sigmas and not same_levels(planned := (*computed[-each.room :],), each.sigmas)
            else each
            for branch, each in held.items()
        }

    def _follow(self, state: _State, sigma: float) -> tuple[_State, bool | None]:
        """Advances the plan; returns whether it computes this evaluation, or None off plan."""
        state = replace(state, begun=True, count=state.count + 1)
        if not state.plan:
            return state, None
        place, sigmas = state.place, self.course.sigmas
        if place >= len(sigmas) or abs(sigmas[place] - sigma) > CLOSE * sigma:
            return replace(state, plan=()), None
        return replace(state, place=place + 1), state.plan[place]

    def _bound(self, state: _State) -> float:
        """Largest expected error of a skipped evaluation when there is no plan."""
        if self.target.speedup is None:
            return self.target.error or 0.0
        rooms = (*state.rooms.items(),)
        if rooms not in self._bounds:
            self._bounds[rooms] = bound_of(self._costs(state.rooms), self._wanted)
        share = self._wanted / len(self.course.sigmas)
        return self._bounds[rooms] * 2 ** (state.computed - state.count * share)

    def _beginning(self) -> _State:
        """The state before the first evaluation, with the plan for a target speed-up."""
        rooms = dict.fromkeys(self.grams, self.keep)
        state = _State((), rooms, {})
        if self.target.speedup is None or self.skips_nothing:
            return state
        steps, count = self.course.whole_steps, len(self.course.sigmas)
        asked = int(count / self.target.speedup + 1e-9)
        costs = self._costs(rooms)
        plan = (hedged_schedule if self.members else best_schedule)(costs, self._wanted)
        best = sum(plan)
        if (self.course.is_short and not self.members) or count < LEAST_GAIN * best:
            self._little_gain = True
            note = f"{steps} steps: there is little to gain, so everything is computed"
            return replace(state, notes=state.noting("gain", note))
        notes, worth = dict(state.notes), fewest_worth(steps)
        if best > asked:
            why = "cannot be reached here"
            if best <= self._fewest and not self.target.draft:
                why = f"computes fewer than {worth} evaluations, no better than as many plain steps"
            speedup = f"a speed-up of {self.target.speedup:g}"
            notes["speed-up"] = f"{speedup} {why}; the best is {count / best:.2f}"
        if best * steps < worth * count:
            plain = f"{best} plain steps do"
            notes["draft"] = f"a draft: it may differ from the full run as much as {plain}"
        # Kept, because a node asks for it often and the costs take as long as the plan itself.
        self._expected[(*rooms.items(),), tuple(plan)] = expected_error(costs, plan)
        return replace(state, plan=tuple(plan), notes=notes)

    def _with_room(self, state: _State, held: Holding) -> _State:
        """The state, replanned if there is room for fewer residuals than the plan relies on."""
        rooms = {
            name: min([room, *(each.room for each in held.values() if name in each.curves)])
            for name, room in state.rooms.items()
        }
        if rooms == state.rooms or self.skips_nothing or self._little_gain:
            return state
        found = f"the cache has room for {min(rooms.values())} residuals instead of {self.keep}"
        if not state.plan:
            note = f"{found}, so more is computed"
            return replace(state, rooms=rooms, notes=state.noting("room", note))
        here = state.last_computed
        planned, past = state.plan[here:], state.plan[: state.place]
        error = expected_error(self._costs(state.rooms).after(here), planned)
        rest = best_schedule(self._costs(rooms).after(here), sum(planned), error)
        plan = (*past, *rest[state.place - here :])
        more = sum(plan) - sum(state.plan)
        notes = state.noting("room", f"{found}, so {_more(more)}")
        return replace(state, rooms=rooms, plan=plan, notes=notes)

    def _costs(self, rooms: Mapping[str, int]) -> Costs:
        course, window = self.course, self.target.window
        protected = _LAST if course.is_short and course.end <= FINISHED else 0
        allowed = [
            window.allows(step, course.steps) and place < len(course.sigmas) - protected
            for place, step in enumerate(course.step_of)
        ]
        return costs_of(
            self.grams, course.sigmas, course.end, self.guidance, may_skip=allowed, keep=rooms,
            members=self.members, fresh=course.fresh, ratios=self._ratios(course.sigmas),
        )  # fmt: skip

    def _ratios(self, sigmas: Sequence[float]) -> np.ndarray:
        return self.learned.ratios(sigmas) if self.learned else np.ones(len(sigmas))

    @property
    def _wanted(self) -> int:
        """Number of evaluations to compute for the target speed-up, at least `_fewest`."""
        assert self.target.speedup is not None
        return max(self._fewest, int(len(self.course.sigmas) / self.target.speedup + 1e-9))

    @property
    def _fewest(self) -> int:
        """This run's part of the fewest evaluations worth computing in the whole trajectory."""
        steps = self.course.whole_steps
        part = min(1.0, len(self.course.sigmas) / steps)
        fewest = _FEWEST_OF_DRAFT if self.target.draft else fewest_worth(steps)
        return math.ceil(fewest * part - 1e-9)


def fewest_worth(steps: int) -> int:
    """How many evaluations a run must compute to be better than as many plain steps.

    Measured for four to eight steps in docs/few-steps.md, for more in docs/prediction.md.
    """
    return min(steps, _FEWEST + (steps < _SHORT_RUN))


def _more(count: int) -> str:
    return f"{count} more {'evaluation is' if count == 1 else 'evaluations are'} computed"
