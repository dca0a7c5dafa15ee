"""Measuring magnitude curves, and the files they are kept in.

The published calibration: a run that skips nothing, and between consecutive evaluations of a
branch, over tokens, the mean ratio of the residuals' norms, its spread and their cosine
distance. All in float32: bf16 quantises ratios near 1.
"""

import json
import os
import threading
from collections.abc import Hashable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .curve import MagnitudeCurve, Trajectory, resampled_trajectory
from .rule import Rule
from .stack import Residual

FORMAT = 1


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
    """

    sigmas: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)
    cosine_distances: list[float] = field(default_factory=list)


def join(
    high: dict[str, Measurement], low: dict[str, Measurement]
) -> tuple[dict[str, Measurement], float]:
    """The measurements of two experts of one run as one, and the σ between them."""
    names = [f.name for f in fields(Measurement)]
    branches = {
        branch: Measurement(*(getattr(high[branch], n) + getattr(low[branch], n) for n in names))
        for branch in high
        if branch in low
    }
    before, after = (next(iter(part.values())).sigmas for part in (high, low))
    return branches, (before[-1] + after[0]) / 2


@dataclass(frozen=True)
class Calibration:
    """A measured curve for one model; used like a preset.

    Attributes:
        model: Class name of the measured transformer; it fits no other.
        branches: The measurement of each branch.
        settings: What the run was made with (steps, sampler, guidance), for the reader.
        threshold, retention, max_skip: Settings used unless others are given.
        name: The file's name, for reports.
        switch_at: σ at which a second expert takes over, or None.
    """

    model: str
    branches: dict[str, Measurement]
    settings: dict[str, Any] = field(default_factory=dict)
    threshold: float = 0.12
    retention: float = 0.2
    max_skip: int = 4
    name: str = "calibration"
    switch_at: float | None = None

    @cached_property
    def curves(self) -> dict[str, MagnitudeCurve]:
        """The magnitude curve of each branch. Evaluations at one σ are taken once."""
        return {b: _curve(measured, self.switch_at) for b, measured in self.branches.items()}

    def rule(self, **changes: Any) -> Rule:
        """The settings kept with the calibration, with `changes`; None changes nothing."""
        kept = {"threshold": self.threshold, "retention": self.retention, "max_skip": self.max_skip}
        return Rule(**{**kept, **{k: v for k, v in changes.items() if v is not None}})

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
        if version != FORMAT:
            raise CalibrationError(
                f"{path} has calibration format {version}, this MagCache reads {FORMAT}: "
                "update MagCache, or calibrate again"
            )
        try:
            del data["format"]
            branches = {b: Measurement(**measured) for b, measured in data.pop("branches").items()}
            calibration = cls(branches=branches, **data)
            if not calibration.curves:
                raise ValueError("it holds no branch")
            calibration.rule()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CalibrationError(f"{path} is broken: {error}") from error
        return calibration


class Calibrator:
    """Collects the measurements of one run. Keeps one residual a branch."""

    def __init__(self) -> None:
        self._last: dict[Hashable, Residual] = {}
        self._sigmas: dict[Hashable, list[float]] = {}
        self._figures: dict[Hashable, list[torch.Tensor]] = {}
        self._curve: dict[Hashable, str] = {}

    def add(
        self, branch: Hashable, curves: tuple[str, ...], sigma: float, residual: Residual
    ) -> None:
        """Compares `residual` (B, tokens, channels; a stream each) with the branch's last one.

        A batch that holds several branches is measured a part each.
        """
        parts = zip(*(tensor.chunk(len(curves)) for tensor in residual), strict=True)
        for place, (curve, part) in enumerate(zip(curves, parts, strict=True)):
            self._add_part((branch, place), curve, sigma, part)

    def _add_part(self, key: Hashable, curve: str, sigma: float, residual: Residual) -> None:
        previous = self._last.get(key)
        first = torch.tensor([1.0, 0.0, 0.0], device=residual[0].device)
        figures = first if previous is None else _compare(previous, residual)
        self._last[key] = residual
        self._curve[key] = curve
        self._sigmas.setdefault(key, []).append(sigma)
        self._figures.setdefault(key, []).append(figures)

    def release(self) -> None:
        """Frees the residuals kept for comparing; what was measured stays."""
        self._last.clear()

    def finish(self) -> dict[str, Measurement]:
        """The measurement of each curve; of several branches of one curve, the first."""
        self.release()
        measured: dict[str, Measurement] = {}
        for branch, figures in self._figures.items():
            ratios, spreads, distances = torch.stack(figures).double().cpu().T.tolist()
            measurement = Measurement(self._sigmas[branch], ratios, spreads, distances)
            measured.setdefault(self._curve[branch], measurement)
        return measured


def _compare(before: Residual, after: Residual) -> torch.Tensor:
    """Ratio, spread and cosine distance over all tokens of all streams, shape (3,), float32."""
    ratios, distances = [], []
    for old, new in zip(before, after, strict=True):
        old, new = old.float(), new.float()
        ratios.append((new.norm(dim=-1) / old.norm(dim=-1).clamp_min(1e-12)).flatten())
        distances.append((1 - torch.cosine_similarity(new, old, dim=-1)).flatten())
    ratio = torch.cat(ratios)
    return torch.stack([ratio.mean(), ratio.std(correction=0), torch.cat(distances).mean()])


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
