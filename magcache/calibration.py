"""Measuring magnitude and Gram curves, and the files they are kept in.

The published calibration: a run that skips nothing, and between consecutive evaluations of a
branch, over tokens, the mean ratio of the residuals' norms, its spread and their cosine
distance. All in float32: bf16 quantises ratios near 1. Beyond it, a small random sample of each
residual's entries gives the inner products of all pairs of evaluations.
"""

import json
import math
import os
import threading
from collections.abc import Hashable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .curve import MagnitudeCurve, Trajectory, resampled_trajectory
from .gram import GramCurve
from .rule import Rule
from .stack import Residual

FORMAT = 2
_READS = (1, 2)  # 1 has no correlations
SAMPLED = 1 << 16  # entries of a residual; more do not change the figures


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

    @cached_property
    def grams(self) -> dict[str, GramCurve]:
        """The Gram curve of each branch; empty where the file has none."""
        branches = self.branches.items()
        return {b: _gram(m, self.switch_at) for b, m in branches if m.correlations}

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
        if version not in _READS:
            raise CalibrationError(
                f"{path} has calibration format {version}, this MagCache reads up to {FORMAT}: "
                "update MagCache, or calibrate again"
            )
        try:
            del data["format"]
            branches = {b: Measurement(**measured) for b, measured in data.pop("branches").items()}
            calibration = cls(branches=branches, **data)
            if not calibration.curves:
                raise ValueError("it holds no branch")
            calibration.rule()
            _ = calibration.grams
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CalibrationError(f"{path} is broken: {error}") from error
        return calibration


class Calibrator:
    """Collects the measurements of one run. Keeps one residual a branch, and samples of all.

    Args:
        sampled: How many entries of each residual the samples hold.
    """

    def __init__(self, sampled: int = SAMPLED) -> None:
        self._sampled = sampled
        self._places: dict[Hashable, tuple[torch.Tensor, ...]] = {}
        self._samples: dict[Hashable, list[torch.Tensor]] = {}
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
        if key not in self._places:
            self._places[key] = _places(residual, self._sampled)
        streams = zip(residual, self._places[key], strict=True)
        sample = torch.cat([tensor.flatten()[places] for tensor, places in streams])
        self._samples.setdefault(key, []).append(sample)

    def release(self) -> None:
        """Frees the residuals kept for comparing; what was measured stays."""
        self._last.clear()

    def finish(self) -> dict[str, Measurement]:
        """The measurement of each curve; of several branches of one curve, the first."""
        self.release()
        measured: dict[str, Measurement] = {}
        for branch, figures in self._figures.items():
            ratios, spreads, distances = torch.stack(figures).double().cpu().T.tolist()
            norms, correlations = _inner_products(self._samples[branch])
            measurement = Measurement(
                self._sigmas[branch], ratios, spreads, distances, norms, correlations
            )
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


def _places(residual: Residual, count: int) -> tuple[torch.Tensor, ...]:
    """Fixed random entries of each stream, by its size; every channel equally often.

    A few channels of a large transformer are far greater than the others, so how often they
    are drawn must not be left to chance.
    """
    generator = torch.Generator().manual_seed(0)
    total = sum(tensor.numel() for tensor in residual)
    places = []
    for tensor in residual:
        channels = tensor.shape[-1]
        rows = tensor.numel() // channels
        each = min(rows, -(-count * tensor.numel() // (total * channels)))
        drawn = torch.randint(rows, (each, channels), generator=generator)
        entries = drawn * channels + torch.arange(channels)
        places.append(entries.flatten().to(tensor.device))
    return tuple(places)


def _inner_products(samples: list[torch.Tensor]) -> tuple[list[float], list[list[float]]]:
    """Root mean squares of the samples, and each one's correlations with the earlier ones.

    Both are empty where a sample holds NaN or Inf.
    """
    entries = torch.stack(samples).double().cpu()
    norms = entries.square().mean(1).sqrt()
    if not (norms.isfinite().all() and norms.min() > 0):
        return [], []
    unit = torch.nn.functional.normalize(entries, dim=1)
    rows = (unit @ unit.T).clamp(-1, 1).tolist()
    return norms.tolist(), [
        [round(value, 7) for value in row[:place]] for place, row in enumerate(rows)
    ]


def _gram(measured: Measurement, switch_at: float | None) -> GramCurve:
    # Of evaluations at one σ the first is kept, as it comes along the sampler's own way.
    sigmas = measured.sigmas
    kept = [p for p, sigma in enumerate(sigmas) if not p or sigma < min(sigmas[:p])]
    falling = tuple(sigmas[p] for p in kept)
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
