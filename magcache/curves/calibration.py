"""Calibrations: what runs have shown of a model's residuals, and the files they are kept in."""

import json
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .gram import GramCurve
from .identity import Identity
from .magnitude import MagnitudeCurve, Trajectory, resampled_trajectory

FORMAT = 2
_READS = (1, 2)  # 1 has no correlations


class CalibrationError(ValueError):
    """A calibration file that cannot be used, and why."""


@dataclass
class Measurement:
    """What one branch showed, a value an evaluation; the first of each list compares nothing.

    Attributes:
        sigmas: Noise levels.
        ratios: Mean over tokens of ‖r_t‖/‖r_{t-1}‖; 1.0 first.
        spreads: Standard deviation of that ratio over tokens; 0.0 first.
        cosine_distances: Mean over tokens of 1 - cos(r_t, r_{t-1}); 0.0 first.
        norms: Root mean square of the residual's entries; empty where it was not measured.
        correlations: ⟨r_t, r_s⟩/(‖r_t‖·‖r_s‖) with every earlier evaluation s, a row each; the
            first row is empty.
    """

    sigmas: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)
    cosine_distances: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    correlations: list[list[float]] = field(default_factory=list)

    def check(self) -> None:
        """Makes sure that the lists belong together and hold numbers.

        Raises:
            ValueError, TypeError: They do not.
        """
        lists = [f.name for f in fields(self) if f.name != "correlations"]
        if bool(self.norms) != bool(self.correlations):
            raise ValueError("its norms and its correlations belong together: one is missing")
        for name in lists:
            values = getattr(self, name)
            if len(values) != len(self.sigmas) and (values or name != "norms"):
                raise ValueError(f"{len(self.sigmas)} sigmas do not match {len(values)} {name}")
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"its {name} hold NaN or Inf")
        if not all(math.isfinite(value) for row in self.correlations for value in row):
            raise ValueError("its correlations hold NaN or Inf")
        if self.norms and min(self.norms) <= 0:
            raise ValueError("its norms must be above 0")

    def matrix(self) -> np.ndarray:
        """The correlations of all pairs of evaluations, shape (T, T)."""
        rows = [[*row, 1.0] for row in self.correlations]
        if [len(row) for row in rows] != list(range(1, len(self.sigmas) + 1)):
            raise ValueError("its correlations do not match its sigmas")
        lower = np.zeros((len(rows), len(rows)))
        for place, row in enumerate(rows):
            lower[place, : place + 1] = row
        return lower + np.tril(lower, -1).T


def join(
    high: dict[str, Measurement], low: dict[str, Measurement]
) -> tuple[dict[str, Measurement], float]:
    """The measurements of two experts of one run as one, and the σ between them."""
    branches = {branch: _joined(high[branch], low[branch]) for branch in high if branch in low}
    before, after = (next(iter(part.values())).sigmas for part in (high, low))
    return branches, (before[-1] + after[0]) / 2


def _joined(high: Measurement, low: Measurement) -> Measurement:
    names = [f.name for f in fields(Measurement) if f.name != "correlations"]
    both = Measurement(**{n: getattr(high, n) + getattr(low, n) for n in names})
    if high.correlations and low.correlations:  # no residual of one expert says anything of one
        apart = [[0.0] * len(high.sigmas) + row for row in low.correlations]  # of the other
        both.correlations = high.correlations + apart
    return both


@dataclass(frozen=True)
class Calibration:
    """A measured curve for one model; used like a preset.

    Attributes:
        model: Class name of the measured transformer; it fits no other.
        branches: The measurement of each branch.
        settings: What the run was made with, as far as it is known: "host", "steps", "shift",
            "sampler", "cfg", "latent" (its shape), "prompts" (how many, where merged).
        threshold, retention, max_skip: Settings used unless others are given.
        name: The file's name, for reports.
        switch_at: σ at which a second expert takes over, or None.
        identity: What the model is known by, see `Identity`; None in older files.
    """

    model: str
    branches: dict[str, Measurement]
    settings: dict[str, Any] = field(default_factory=dict)
    threshold: float = 0.12
    retention: float = 0.2
    max_skip: int = 4
    name: str = "calibration"
    switch_at: float | None = None
    identity: dict[str, Any] | None = None

    @cached_property
    def curves(self) -> dict[str, MagnitudeCurve]:
        """The magnitude curve of each branch. Evaluations at one σ are taken once."""
        return {b: _curve(measured, self.switch_at) for b, measured in self.branches.items()}

    @cached_property
    def grams(self) -> dict[str, GramCurve]:
        """The Gram curve of each branch; empty where the file has none."""
        branches = self.branches.items()
        return {b: _gram(m, self.switch_at) for b, m in branches if m.correlations}

    def check_grams(self) -> None:
        """Makes sure that it can be planned with.

        Raises:
            CalibrationError: It has no Gram curve.
        """
        if not self.grams:
            raise CalibrationError(
                f"{self.name} has no Gram curve to plan with (an older MagCache made it, or a "
                "residual held NaN or Inf): calibrate anew"
            )

    @property
    def prompts(self) -> int:
        """From how many prompts it was measured."""
        return self.settings.get("prompts") or 1

    def trajectory(self, steps: int | None = None, shift: float | None = None) -> Trajectory:
        """The measured run's schedule at `steps` steps, or an evenly spaced one with `shift`."""
        return resampled_trajectory(next(iter(self.curves.values())).positions, steps, shift)

    def save(self, path: str | Path) -> Path:
        """Writes the file in one move: a crash or a full disk leaves an older one as it was."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1)
        scratch = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            scratch.write_text(text, encoding="utf-8")
            os.replace(scratch, path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Reads a file; it is never changed.

        Raises:
            CalibrationError: The file is missing, broken, or of a newer format.
        """
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            version = data["format"]
        except FileNotFoundError:
            raise CalibrationError(f"there is no calibration file {path}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CalibrationError(f"{path} is no calibration file: {error!r}") from error
        if version not in _READS:
            raise CalibrationError(
                f"{path} has calibration format {version}, this MagCache reads up to {FORMAT}: "
                "update MagCache, or calibrate again"
            )
        try:
            del data["format"]
            branches = {b: Measurement(**measured) for b, measured in data.pop("branches").items()}
            calibration = cls(branches=branches, **data)
            calibration.check()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CalibrationError(f"{path} is broken: {error}") from error
        return calibration

    def check(self) -> None:
        """Makes sure that all of it can be used.

        Raises:
            ValueError, TypeError, AttributeError: Something cannot, and what.
        """
        for name, kinds in (("model", str), ("name", str), ("settings", dict)):
            if not isinstance(getattr(self, name), kinds):
                raise ValueError(f"its {name} is {getattr(self, name)!r}")
        for name in ("steps", "shift", "cfg", "prompts"):
            if not isinstance(self.settings.get(name), int | float | None):
                raise ValueError(f"its {name} is {self.settings[name]!r}")
        if not self.branches:
            raise ValueError("it holds no branch")
        for measured in self.branches.values():
            measured.check()
        self.known_as()
        self._check_recommended()
        _ = self.curves, self.grams

    def _check_recommended(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise ValueError(f"threshold must be 0 or more, got {self.threshold}")
        if not 0 <= self.retention <= 1:
            raise ValueError(f"retention is a fraction from 0 to 1, got {self.retention}")
        if not (self.max_skip >= 0 and self.max_skip % 1 == 0):
            raise ValueError(f"max_skip must be a whole number, 0 or more, got {self.max_skip}")

    def known_as(self) -> Identity | None:
        """The model's identity, None in older files."""
        return None if self.identity is None else Identity(**self.identity)


def falling_places(sigmas: Sequence[float]) -> list[int]:
    """Indices of the evaluations that curves are made of: each at a lower σ than all before.

    Of several at one σ the first, as it comes along the sampler's own way.
    """
    return [p for p, sigma in enumerate(sigmas) if not p or sigma < min(sigmas[:p])]


def _gram(measured: Measurement, switch_at: float | None) -> GramCurve:
    kept = falling_places(measured.sigmas)
    falling = tuple(measured.sigmas[p] for p in kept)
    logs = tuple(math.log(measured.norms[p]) for p in kept)
    switch = () if switch_at is None else (sum(sigma >= switch_at for sigma in falling),)
    ends = () if switch_at is None else (switch_at,)
    norms = MagnitudeCurve(falling, logs, "sigma", switch, ends)
    return GramCurve(norms, measured.matrix()[np.ix_(kept, kept)])


def _curve(measured: Measurement, switch_at: float | None) -> MagnitudeCurve:
    sigmas, ratios = measured.sigmas, measured.ratios
    if len(sigmas) != len(ratios) or not sigmas:
        raise ValueError(f"{len(sigmas)} sigmas do not match {len(ratios)} ratios")
    # A second-order sampler evaluates one σ twice: the ratios between two kept ones compose.
    kept_ratios, kept_sigmas, product = [ratios[0]], [sigmas[0]], 1.0
    for sigma, ratio in zip(sigmas[1:], ratios[1:], strict=True):
        product *= ratio
        if sigma < kept_sigmas[-1]:
            kept_sigmas.append(sigma)
            kept_ratios.append(product)
            product = 1.0
    if switch_at is None:
        return MagnitudeCurve.from_ratios(kept_ratios, kept_sigmas)
    switch = sum(sigma >= switch_at for sigma in kept_sigmas), switch_at
    return MagnitudeCurve.from_ratios(kept_ratios, kept_sigmas, switch)
