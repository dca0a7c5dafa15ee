"""What `apply` returns: reports, calibrations, and the way back."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from ...calibrate import Calibrator, identity_of
from ...curves import Calibration, CalibrationError, join
from ...report import Report
from .session import Session

_NOTHING = "nothing was measured: apply with calibrate=True, then sample"


@dataclass(frozen=True)
class Measured:
    """What the latest run of each expert has measured; keeps no model.

    Attributes:
        model: Class of the transformers.
        calibrators: One an expert that was measured.
        settings: What the runs were made with.
        identity: Which weights they are of.
    """

    model: str
    calibrators: Sequence[Calibrator]
    settings: dict[str, Any]
    identity: dict[str, Any]

    @classmethod
    def by(cls, session: Session) -> "Measured | None":
        """What was measured in a session, if anything was."""
        calibrators = [e.calibrator for e in session.experts if e.calibrator]
        transformers = [expert.transformer for expert in session.experts]
        if not calibrators:
            return None
        identity = asdict(identity_of(*transformers))
        return cls(type(transformers[0]).__name__, calibrators, session.made_with, identity)

    def calibration(self) -> Calibration:
        """The same as a calibration.

        Raises:
            CalibrationError: No evaluation was measured.
        """
        measured = [found for each in self.calibrators if (found := each.finish())]
        if not measured:
            raise CalibrationError(_NOTHING)
        branches, switch_at = join(*measured) if len(measured) == 2 else (measured[0], None)
        return Calibration(
            model=self.model,
            branches=branches,
            settings=self.settings,
            switch_at=switch_at,
            identity=self.identity,
        )


class Applied:
    """MagCache on a pipeline, until `remove` or the end of a `with` block.

    From then on it keeps what was reported and measured, and neither pipeline nor model.
    """

    def __init__(self, session: Session, missing: Sequence[str]) -> None:
        self._session: Session | None = session
        self._missing = missing
        self._reported = Report([])
        self._measured: Measured | None = None

    @property
    def schedule(self) -> str:
        """That of `report()`, without waiting for the device of a sampling under way."""
        return self._session.schedule if self._session else self._reported.schedule

    def report(self) -> Report:
        """What the last sampling did (all that came since `apply` or `reset`)."""
        return self._session.report(self._missing) if self._session else self._reported

    def reset(self) -> None:
        """Forgets past runs and frees what they hold."""
        if self._session:
            self._session.reset()
        self._reported, self._measured = Report([], "; ".join(self._missing)), None

    def calibration(self) -> Calibration:
        """What the last run that computed everything has measured.

        Raises:
            CalibrationError: No evaluation was measured.
        """
        measured = Measured.by(self._session) if self._session else self._measured
        if measured is None:
            raise CalibrationError(_NOTHING)
        return measured.calibration()

    def remove(self) -> None:
        """Takes MagCache off: the model is as before, and no residual is kept."""
        if self._session:
            self._session.remove()
            self._reported, self._measured = self.report(), Measured.by(self._session)
            self._session = None

    def __enter__(self) -> "Applied":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and self._session:
            self._session.failed(error)
        self.remove()
