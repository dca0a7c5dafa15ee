"""The settings given to `apply`, and the runs that are made from them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ...blocks import BlockStack
from ...curves import Calibration, Learned, Notebook, Trajectory, home
from ...decide import Course, Decider, Mender, Rule, Target, decider_for
from ...run import Run, Storage
from .clock import SchedulerClock, Tick
from .experts import Expert, known_as, other_cache
from .outputs import is_euler, is_flow, level_of
from .parallel import Company
from .session import Session

_USUAL_CFG = 3.0  # assumed for a hand-written loop, whose scale is unknown


@dataclass(frozen=True)
class Asked:
    """The settings given to `apply`.

    Attributes:
        source: The curve; None if it is measured or the prior.
        aim: Settings of the rule, or the target to plan for; None computes and measures everything.
        repeats: Whether to reuse the last residual even if residuals could be predicted.
        guidance: CFG scale, which weights the branches' errors; None takes the pipeline's.
        storage: Where residuals are kept.
        company: The processes that sample together.
    """

    source: Calibration | None
    aim: Rule | Target | None
    repeats: bool
    guidance: float | None
    storage: Storage
    company: Company

    @property
    def forecasts(self) -> bool:
        """Whether the models' output is predicted from the prior."""
        return self.aim is not None and self.source is None

    def run(self, session: Session, clock: SchedulerClock, expert: Expert, first: Tick) -> Run:
        """The run of an expert, starting at `first`."""
        label = self.source.name if self.source else "forecast" if self.aim else "calibration"
        if expert.outputs:
            decider = self._forecasting(session, clock, expert, first)
        else:
            grams, guidance = {} if self.repeats else expert.grams, self._guidance(session, 1.0)
            course = _course(clock, expert, first)
            decider = decider_for(self.aim, course, expert.curves, grams, guidance)
        stack = expert.stack if isinstance(expert.stack, BlockStack) else None
        together = self.company.begin(decider, label, self.storage.budget, stack)
        calibrator = None if self.aim else self.company.calibrator(expert.transformer)
        mender = _mender(session, clock, expert, first)
        run = Run(decider, expert.stack, self.storage, calibrator, label, together, mender)
        if other := other_cache(expert.models):
            run.spoil(f"{other} also skips parts of the model: remove it with disable_cache")
        return run

    def learn(self, expert: Expert, run: Run) -> None:
        """Saves what a run has taught."""
        if expert.notebook and (lessons := run.lessons()):
            expert.notebook.add(lessons)

    def _forecasting(
        self, session: Session, clock: SchedulerClock, expert: Expert, first: Tick
    ) -> Decider:
        scheduler, ticks = session.scheduler(), clock.ahead(first)

        def level(sigma: float) -> float:
            return level_of(scheduler, sigma)

        course = Course(
            Trajectory(tuple(map(level, clock.trajectory.sigmas))),
            clock.steps,
            [level(tick.sigma) for tick in ticks],
            [tick.step for tick in ticks],
            level(clock.end),
            session.switches(clock, ticks),
        )
        guidance = self._guidance(session, _USUAL_CFG) if session.guides else 1.0
        expert.notebook, learned = None, Learned()
        if not self.company.several:  # several processes may have learned different things
            expert.notebook = notebook_of(expert.models)
            learned = expert.notebook.read()
        return decider_for(self.aim, course, guidance=guidance, learned=learned)

    def _guidance(self, session: Session, default: float) -> float:
        asked = session.guidance if self.guidance is None else self.guidance
        return default if asked is None else asked


def notebook_of(models: Sequence[nn.Module]) -> Notebook:
    """What samplings have taught of a pipeline's models."""
    return Notebook(home() / "learned", known_as(models))


def _mender(session: Session, clock: SchedulerClock, expert: Expert, first: Tick) -> Mender | None:
    """Mends if each step is Δσ times what is predicted, as with Euler's method on a flow.

    On x₀ + σ·ε it is the same, since outputs are predicted as velocities at flow levels.
    """
    scheduler = session.scheduler()
    if session.bare or not is_euler(scheduler) or not (expert.outputs or is_flow(scheduler)):
        return None
    return Mender([level_of(scheduler, sigma) for sigma in clock.levels(first)])


def _course(clock: SchedulerClock, expert: Expert, first: Tick) -> Course:
    """The evaluations of one expert, from `first` to the end of its part of the curve."""
    ticks = [tick for tick in clock.ahead(first) if tick.sigma >= expert.until] or [first]
    sigmas, steps = [tick.sigma for tick in ticks], [tick.step for tick in ticks]
    return Course(clock.trajectory, clock.steps, sigmas, steps, max(clock.end, expert.until))
