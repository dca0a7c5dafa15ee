"""What `apply` returns: reports, calibrations, and the way back."""

from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any

import diffusers

from ...calibrate import identity_of
from ...curves import Calibration, CalibrationError, Measurement, join
from ...report import Report
from .session import Expert, Session


class Applied:
    """MagCache on a pipeline, until `remove` or the end of a `with` block."""

    def __init__(self, session: Session, missing: Sequence[str]) -> None:
        self._session = session
        self._missing = missing

    def report(self) -> Report:
        """What the last sampling did (all that came since `apply` or `reset`)."""
        problems = [*self._missing, *self._session.problems]
        return Report(list(self._session.runs), "; ".join(problems))

    def reset(self) -> None:
        """Forgets past runs and frees what they hold."""
        self._session.reset()

    def calibration(self) -> Calibration:
        """What the last run that computed everything has measured.

        Raises:
            CalibrationError: No evaluation was measured.
        """
        return measured_by(self._session)

    def remove(self) -> None:
        """Takes MagCache off: the model is as before, and no residual is kept."""
        self._session.remove()

    def __enter__(self) -> "Applied":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._session.failed(error)
        self.remove()


def measured_by(session: Session) -> Calibration:
    """The calibration that a session's last runs make; see `Applied.calibration`."""
    measured = [m for expert in session.experts if (m := _measured(session, expert))]
    if not measured:
        raise CalibrationError("nothing was measured: apply with calibrate=True, then sample")
    branches, switch_at = join(*measured) if len(measured) == 2 else (measured[0], None)
    transformers = [expert.transformer for expert in session.experts]
    return Calibration(
        model=type(transformers[0]).__name__,
        branches=branches,
        settings=settings_of(session, session.runs[-1].decider.course.steps),
        switch_at=switch_at,
        identity=asdict(identity_of(*transformers)),
    )


def settings_of(session: Session, steps: int) -> dict[str, Any]:
    """What a run of a session is made with, by the names that calibrations have it under."""
    scheduler = session.scheduler()
    return {
        "host": f"diffusers {diffusers.__version__}",
        "steps": steps,
        "sampler": type(scheduler).__name__,
        "shift": scheduler.config.get("shift"),
        "cfg": session.guidance,
    }


def _measured(session: Session, expert: Expert) -> dict[str, Measurement]:
    runs = [run for run in session.runs if run.stack is expert.stack]
    calibrator = runs[-1].calibrator if runs else None
    return calibrator.finish() if calibrator else {}
