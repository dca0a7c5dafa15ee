"""Calibrations: measured or published curves of a model's residuals, and their files."""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .files import read_json, write_json
from .gram import GramCurve
from .identity import Identity
from .magnitude import MagnitudeCurve, Trajectory, resampled_trajectory, shifted_sigmas
from .measurement import Measurement

FORMAT = 3
_READS = (1, 2, 3)  # format 1 has no correlations, format 2 no checksum
_OF_PRESETS = ("family", "refresh", "source", "note")  # left out of measured calibrations


class CalibrationError(ValueError):
    """A calibration file that cannot be used, and why."""


@dataclass(frozen=True)
class Calibration:
    """The curves of one model, with the settings they were made with and recommended settings.

    Measured in a run of the model itself, or published for a family of models (a preset, see
    `presets`). A preset has no inner products and may have no noise levels.

    Attributes:
        model: Class name of the measured transformer; "" for a preset.
        branches: The measurement of each branch.
        settings: Settings of the measured run, as far as known: "host", "steps", "shift",
            "sampler", "cfg", "latent" (its shape), "prompts" (their number, if merged).
        threshold, retention, max_skip: Recommended settings of the rule; None if a preset has
            none.
        name: The file's name, for reports.
        switch_at: σ at which a second expert takes over, or None.
        identity: Fields of the model's `Identity`; None in older files.
        family: The family that a preset is for; "" for a measured calibration.
        refresh: Fraction of the trajectory at which one evaluation is always computed (FLUX), or
            None.
        source: Where a preset's figures come from.
        note: What a user should know about it.
    """

    model: str
    branches: dict[str, Measurement]
    settings: dict[str, Any] = field(default_factory=dict)
    threshold: float | None = 0.12
    retention: float | None = 0.2
    max_skip: int | None = 4
    name: str = "calibration"
    switch_at: float | None = None
    identity: dict[str, Any] | None = None
    family: str = ""
    refresh: float | None = None
    source: str = ""
    note: str = ""

    @cached_property
    def curves(self) -> dict[str, MagnitudeCurve]:
        """The magnitude curve of each branch. Evaluations at the same σ count once."""
        return {b: measured.curve(self.switch_at) for b, measured in self.branches.items()}

    @cached_property
    def grams(self) -> dict[str, GramCurve]:
        """The Gram curve of each branch; empty without inner products."""
        branches = self.branches.items()
        return {b: m.gram(self.switch_at) for b, m in branches if m.correlations}

    @property
    def origin(self) -> str:
        """What it is for, in messages: "was measured on FluxTransformer2DModel"."""
        return f"is for {self.family}" if self.family else f"was measured on {self.model}"

    def fits(self, model: str, family: str = "") -> bool:
        """Whether it is for a model of this class and family; "" (unknown) matches any family."""
        return family in ("", self.family) if self.family else model == self.model

    def check_grams(self) -> None:
        """Checks that a schedule can be planned from it.

        Raises:
            CalibrationError: It has no Gram curve.
        """
        if not self.grams:
            measured = "an older MagCache made it, or a residual held NaN or Inf"
            why = "published curves have none" if self.family else measured
            raise CalibrationError(
                f"{self.name} has no Gram curve to plan from ({why}): calibrate the model"
            )

    @property
    def prompts(self) -> int:
        """Number of prompts that it was measured with."""
        return self.settings.get("prompts") or 1

    def trajectory(self, steps: int | None = None, shift: float | None = None) -> Trajectory:
        """Its own schedule at `steps` steps, or an evenly spaced one if `shift` is given.

        If its own schedule is unknown, an evenly spaced one is used.
        """
        curve = next(iter(self.curves.values()))
        known = curve.over == "sigma"
        own = curve.positions if known else shifted_sigmas(len(curve.positions))
        return resampled_trajectory(own, steps, shift)

    def save(self, path: str | Path) -> Path:
        """Writes the file atomically: a crash or a full disk leaves an older file intact.

        Raises:
            CalibrationError: The result could not be read back.
            OSError: The file cannot be written.
        """
        path = Path(path)
        held = {n: value for n, value in asdict(self).items() if value or n not in _OF_PRESETS}
        try:
            held = json.loads(json.dumps(held))
            _calibration(held)
        except (TypeError, ValueError) as error:
            raise CalibrationError(f"calibration {self.name} was not saved: {error}") from error
        write_json(path, {"format": FORMAT, **held})
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Reads a file without changing it.

        Raises:
            CalibrationError: The file is missing or broken, or its format is newer.
        """
        path = Path(path)
        try:
            held = read_json(path)
        except FileNotFoundError:
            raise CalibrationError(f"there is no calibration file {path}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CalibrationError(f"{path} is not a calibration file: {reason}") from error
        if not (isinstance(held, dict) and "format" in held):
            raise CalibrationError(f"{path} is not a calibration file: it has no format")
        if held["format"] not in _READS:
            raise CalibrationError(
                f"{path} has calibration format {held['format']!s:.20}, but this MagCache reads up "
                f"to {FORMAT}: update MagCache or calibrate again"
            )
        try:
            return _calibration(held)
        except ValueError as error:
            raise CalibrationError(f"calibration {path}: {error}") from error

    def known_as(self) -> Identity | None:
        """The model's identity; None in older files."""
        return None if self.identity is None else Identity(**self.identity)


def _calibration(held: dict[str, Any]) -> Calibration:
    """The calibration that the fields of a file describe.

    Raises:
        ValueError: A field is invalid; the message names it.
    """
    from . import schema

    told = schema.check(schema.CalibrationFile, held)
    branches = {b: Measurement(**measured) for b, measured in told["branches"].items()}
    return Calibration(**{**told, "branches": branches})
