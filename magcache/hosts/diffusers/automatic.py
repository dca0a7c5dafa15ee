"""Calibrations that make themselves: a model's first sampling is measured, and found again."""

import logging

from ...calibrate import identity_of
from ...curves import CalibrationError, Found, Store
from .clock import SchedulerClock
from .session import Session

log = logging.getLogger("magcache")


class Automatic:
    """Looks for a stored calibration at the beginning of each sampling.

    Args:
        store: Where calibrations are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._clock: SchedulerClock | None = None
        self._found: Found | None = None

    def find(self, session: Session, clock: SchedulerClock) -> Found | None:
        """The best one for the sampling of a clock, the same for all experts, if any is good.

        Of a video that is sampled in sections, what the first has measured serves the others.
        """
        if clock is not self._clock:
            if session.begun and self._clock and self._clock.at_end:
                self.keep(session)
            self._clock = clock
            transformers = [expert.transformer for expert in session.experts]
            sigmas, made_with = clock.trajectory.sigmas, session.described(clock.steps)
            identity = identity_of(*transformers)
            self._found = self._store.nearest(identity, sigmas, made_with, len(transformers))
        return self._found

    def keep(self, session: Session) -> None:
        """Stores what a sampling that ran to its end has measured, if it did."""
        if self._found is not None or not any(expert.calibrator for expert in session.experts):
            return
        try:
            path = self._store.save(session.calibration())
        except (CalibrationError, OSError) as error:
            log.warning("MagCache: %s", error)
            return
        log.info("MagCache: measured; from here on sampling is accelerated (%s)", path)
