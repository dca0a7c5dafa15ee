"""Schedules: which evaluations of a run are computed, which are skipped, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ..curves import Trajectory

FEW_STEPS = 9  # a run of fewer steps cannot recover from errors, so special rules apply


class Reason(str, Enum):
    """Why an evaluation was computed or skipped."""

    SKIPPED = "skipped"
    FIRST = "first evaluation"
    WINDOW = "outside start_step..end_step"
    RETENTION = "retention"
    REFRESH = "fixed refresh"
    NO_RATIO = "no magnitude ratio"
    NO_RESIDUAL = "no usable residual"
    THRESHOLD = "threshold"
    MAX_SKIP = "max_skip"
    OFF = "skipping is off"
    PLANNED = "planned"
    ERROR = "expected error"
    LITTLE_GAIN = "little to gain"
    CALIBRATION = "calibration"


@dataclass(frozen=True)
class Course:
    """The evaluations of one run, as far as they are known beforehand.

    Attributes:
        trajectory: The whole trajectory; the run may sample only a part of it.
        steps: Number of steps in this run.
        sigmas: Noise level of each evaluation, falling.
        step_of: The step that each evaluation belongs to.
        end: Noise level after the last evaluation.
        fresh: Places of evaluations at boundaries: nothing older may be used from there on.
    """

    trajectory: Trajectory
    steps: int
    sigmas: Sequence[float]
    step_of: Sequence[int]
    end: float = 0.0
    fresh: Sequence[int] = ()

    @classmethod
    def of_steps(
        cls,
        trajectory: Trajectory,
        sigmas: Sequence[float] | None = None,
        end: float = 0.0,
        fresh: Sequence[int] = (),
    ) -> "Course":
        """A course with one evaluation per step, over the whole trajectory by default."""
        at = trajectory.sigmas if sigmas is None else sigmas
        return cls(trajectory, len(at), at, range(len(at)), end, fresh)

    @property
    def whole_steps(self) -> int:
        """Number of steps of the whole trajectory."""
        return max(self.steps, self.trajectory.steps)

    @property
    def is_short(self) -> bool:
        """Whether the whole trajectory has few steps."""
        return self.whole_steps < FEW_STEPS

    @property
    def evaluations(self) -> list[tuple[float, int]]:
        """σ and step of each evaluation."""
        return list(zip(self.sigmas, self.step_of, strict=True))


@dataclass(frozen=True)
class Schedule:
    """Which evaluations of a run are computed and which are skipped.

    Attributes:
        sigmas: Noise level of each evaluation.
        reasons: Why each is computed, or `Reason.SKIPPED`.
        notes: What a user should know about it.
    """

    sigmas: tuple[float, ...]
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "".join("." if r is Reason.SKIPPED else "#" for r in self.reasons)

    @property
    def computed(self) -> int:
        return len(self.reasons) - self.skipped

    @property
    def skipped(self) -> int:
        return self.reasons.count(Reason.SKIPPED)

    def speedup(self, skip_cost: float = 0.0) -> float:
        """The speed-up if a skipped evaluation costs `skip_cost` times a computed one."""
        cost = self.computed + skip_cost * self.skipped
        return len(self.reasons) / cost if cost else 1.0
