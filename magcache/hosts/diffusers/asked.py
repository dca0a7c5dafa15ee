"""What was asked of a pipeline's samplings, and the runs that are made of it."""

from dataclasses import dataclass

from ...curves import Calibration
from ...decide import Course, Mender, Rule, Target, decider_for
from ...run import Run, Storage
from .automatic import Automatic
from .clock import SchedulerClock, Tick
from .experts import Expert, give_curves
from .parallel import Company
from .session import Session


@dataclass(frozen=True)
class Asked:
    """What `apply` was asked for.

    Attributes:
        source: The curve; None where it is measured, or looked for.
        aim: Settings of the rule, or what to plan for; None computes everything and measures it.
        repeats: Whether the last residual is reused although residuals could be predicted.
        guidance: CFG scale, by which the branches' errors are weighed; None is the pipeline's.
        storage: Where residuals are kept.
        company: The processes that sample together.
        automatic: Looks for a calibration to plan with; None where there is a source.
    """

    source: Calibration | None
    aim: Rule | Target | None
    repeats: bool
    guidance: float | None
    storage: Storage
    company: Company
    automatic: Automatic | None

    def run(self, session: Session, clock: SchedulerClock, expert: Expert, first: Tick) -> Run:
        """The run of an expert that begins at a tick of a clock."""
        aim, label, note = self.aim, "calibration", ""
        if self.source:
            label = self.source.name
        elif self.automatic:
            found = self.automatic.find(session, clock)
            place, count = session.experts.index(expert), len(session.experts)
            give_curves(expert, found and found.calibration, place, count)
            aim = aim if found else None
            label, note = (found.calibration.name, str(found)) if found else ("measuring", "")
        guidance = session.guidance if self.guidance is None else self.guidance
        grams = {} if self.repeats else expert.grams
        decider = decider_for(
            aim,
            _course(clock, expert, first),
            expert.curves,
            grams,
            1.0 if guidance is None else guidance,
        )
        together = self.company.begin(decider, label, self.storage.budget, expert.stack)
        calibrator = None if aim else self.company.calibrator(expert.transformer)
        mends = clock.allows_mending and not session.bare
        mender = Mender(clock.levels(first)) if mends else None
        run = Run(decider, expert.stack, self.storage, calibrator, label, together, mender)
        run.warnings += [note] if note else []
        return run


def _course(clock: SchedulerClock, expert: Expert, first: Tick) -> Course:
    """The run of one expert, from `first` to where its part of the curve ends."""
    ticks = [tick for tick in clock.ahead(first) if tick.sigma >= expert.until] or [first]
    sigmas, steps = [tick.sigma for tick in ticks], [tick.step for tick in ticks]
    return Course(clock.trajectory, clock.steps, sigmas, steps, max(clock.end, expert.until))
