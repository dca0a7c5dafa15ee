"""What `apply` returns: reports, calibrations, and the way back."""

from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType

from ...calibrate import identity_of
from ...curves import Calibration, CalibrationError, join
from ...report import Report
from .session import Session


class Applied:
    """MagCache on a pipeline, until `remove` or the end of a `with` block."""

    def __init__(self, session: Session, missing: Sequence[str]) -> None:
        self._session = session
        self._missing = missing

    def report(self) -> Report:
        """What the last sampling did (all that came since `apply` or `reset`)."""
        return self._session.report(self._missing)

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
    calibrators = [expert.calibrator for expert in session.experts if expert.calibrator]
    measured = [found for each in calibrators if (found := each.finish())]
    if not measured:
        raise CalibrationError("nothing was measured: apply with calibrate=True, then sample")
    branches, switch_at = join(*measured) if len(measured) == 2 else (measured[0], None)
    transformers = [expert.transformer for expert in session.experts]
    return Calibration(
        model=type(transformers[0]).__name__,
        branches=branches,
        settings=session.made_with,
        switch_at=switch_at,
        identity=asdict(identity_of(*transformers)),
    )
