"""Calibrations: what is known of a model's residuals, published or measured, and their files."""

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
_READS = (1, 2, 3)  # 1 has no correlations, 2 no checksum
_OF_PRESETS = ("family", "refresh", "source", "note")  # files of runs go without


class CalibrationError(ValueError):
    """A calibration file that cannot be used, and why."""


@dataclass(frozen=True)
class Calibration:
    """The curves of one model, and the settings that go with them.

    Measured by a run of the model itself, or published for a family of models (a preset, see
    `presets`): then there are no inner products, and perhaps no noise levels.

    Attributes:
        model: Class name of the measured transformer; "" of a preset.
        branches: The measurement of each branch.
        settings: What the run was made with, as far as it is known: "host", "steps", "shift",
            "sampler", "cfg", "latent" (its shape), "prompts" (how many, where merged).
        threshold, retention, max_skip: Settings of the rule, used unless others are given; None
            where a preset has none.
        name: The file's name, for reports.
        switch_at: σ at which a second expert takes over, or None.
        identity: What the model is known by, see `Identity`; None in older files.
        family: Name of the family that a preset is for; "" of a measured one.
        refresh: Fraction of the trajectory that is always computed (FLUX), or None.
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
        """The magnitude curve of each branch. Evaluations at one σ are taken once."""
        return {b: measured.curve(self.switch_at) for b, measured in self.branches.items()}

    @cached_property
    def grams(self) -> dict[str, GramCurve]:
        """The Gram curve of each branch; empty where there are no inner products."""
        branches = self.branches.items()
        return {b: m.gram(self.switch_at) for b, m in branches if m.correlations}

    @property
    def origin(self) -> str:
        """What it is for, for messages: "was measured on FluxTransformer2DModel"."""
        return f"is for {self.family}" if self.family else f"was measured on {self.model}"

    def fits(self, model: str, family: str = "") -> bool:
        """Whether it is for a model of this class and family; an unknown family ("") may be any."""
        return family in ("", self.family) if self.family else model == self.model

    def check_grams(self) -> None:
        """Makes sure that it can be planned with.

        Raises:
            CalibrationError: It has no Gram curve.
        """
        if not self.grams:
            measured = "an older MagCache made it, or a residual held NaN or Inf"
            why = "published curves have none" if self.family else measured
            raise CalibrationError(
                f"{self.name} has no Gram curve to plan with ({why}): calibrate the model"
            )

    @property
    def prompts(self) -> int:
        """From how many prompts it was measured."""
        return self.settings.get("prompts") or 1

    def trajectory(self, steps: int | None = None, shift: float | None = None) -> Trajectory:
        """Its own schedule at `steps` steps, or an evenly spaced one with `shift`.

        An evenly spaced one as well where its own is unknown.
        """
        curve = next(iter(self.curves.values()))
        known = curve.over == "sigma"
        own = curve.positions if known else shifted_sigmas(len(curve.positions))
        return resampled_trajectory(own, steps, shift)

    def save(self, path: str | Path) -> Path:
        """Writes the file in one move: a crash or a full disk leaves an older one as it was.

        Raises:
            CalibrationError: What it holds could not be read again.
            OSError: The file cannot be written.
        """
        path = Path(path)
        held = {n: value for n, value in asdict(self).items() if value or n not in _OF_PRESETS}
        try:
            held = json.loads(json.dumps(held))
            _calibration(held)
        except (TypeError, ValueError) as error:
            raise CalibrationError(f"calibration {self.name} is not written: {error}") from error
        write_json(path, {"format": FORMAT, **held})
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Reads a file; it is never changed.

        Raises:
            CalibrationError: The file is missing, broken, or of a newer format.
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
                f"{path} has calibration format {held['format']!s:.20}, this MagCache reads up to "
                f"{FORMAT}: update MagCache, or calibrate again"
            )
        try:
            return _calibration(held)
        except ValueError as error:
            raise CalibrationError(f"calibration {path}: {error}") from error

    def known_as(self) -> Identity | None:
        """The model's identity, None in older files."""
        return None if self.identity is None else Identity(**self.identity)


def _calibration(held: dict[str, Any]) -> Calibration:
    """What a file's fields mean.

    Raises:
        ValueError: They cannot be used; names the field.
    """
    from . import schema

    told = schema.check(schema.CalibrationFile, held)
    branches = {b: Measurement(**measured) for b, measured in told["branches"].items()}
    return Calibration(**{**told, "branches": branches})
