"""Measures a run that skips nothing.

The published calibration compares consecutive evaluations of a branch: mean ratio of the
residuals' norms over tokens, its spread, and the cosine distance. All is computed in float32,
because bfloat16 quantises ratios near 1. In addition, a small random sample of each residual's
entries gives the inner products of all pairs of evaluations.
"""

from collections.abc import Hashable

import torch

from ..blocks import Residual
from ..curves import CalibrationError, Measurement
from .entries import Entries, size_of

SAMPLED = 1 << 16  # entries sampled per residual

OVERFLOWS = "some models overflow in float16, so try bfloat16 or float32"


class Calibrator:
    """Collects the measurements of one run. Holds the last residual of each branch, and samples.

    Args:
        sampled: Number of entries to sample from each residual.
    """

    def __init__(self, sampled: int = SAMPLED) -> None:
        self._entries = Entries(sampled)
        self._samples: dict[Hashable, list[torch.Tensor]] = {}
        self._last: dict[Hashable, Residual] = {}
        self._sigmas: dict[Hashable, list[float]] = {}
        self._figures: dict[Hashable, list[torch.Tensor]] = {}
        self._curve: dict[Hashable, str] = {}
        self._sizes: dict[Hashable, list[torch.Tensor]] = {}
        self._spoilt = ""

    def spoil(self, reason: str) -> None:
        """Marks the measurement as unusable, and says why."""
        self._spoilt = reason

    def add(
        self, branch: Hashable, curves: tuple[str, ...], sigma: float, residual: Residual
    ) -> None:
        """Compares `residual`, a (B, tokens, channels) per stream, with the branch's last one.

        If a batch holds several branches, each part of it is measured separately.
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
        self._samples.setdefault(key, []).append(self._entries.of(key, residual))
        self._sizes.setdefault(key, []).append(size_of(residual))

    def release(self) -> None:
        """Frees the residuals held for comparison; keeps what was measured."""
        self._last.clear()

    def ratios(self) -> dict[str, list[float]]:
        """The magnitude ratios so far. If several branches follow a curve, the first counts."""
        found: dict[str, list[float]] = {}
        for branch, figures in self._figures.items():
            found.setdefault(self._curve[branch], torch.stack(figures)[:, 0].tolist())
        return found

    def problem(self) -> str:
        """Why the measurement cannot be used, or ""."""
        if self._spoilt:
            return self._spoilt
        for key, sizes in self._sizes.items():
            found = torch.stack(sizes).cpu()
            bad = ~found.isfinite() | (found == 0)
            if bad.any():
                first = int(bad.nonzero()[0])
                where = f"evaluation {first + 1} (noise level {self._sigmas[key][first]:.4g})"
                what = f"the residual of {self._curve[key]} at {where}"
                if found[first] == 0:
                    return f"{what} was 0 everywhere: something replaced the model's blocks"
                return f"{what} held NaN or Inf: {OVERFLOWS}"
        return ""

    def finish(self) -> dict[str, Measurement]:
        """The measurement of each curve. If several branches follow a curve, the first counts.

        Raises:
            CalibrationError: The measurement cannot be used; the message says why.
        """
        if problem := self.problem():
            raise CalibrationError(problem)
        return self._measured()

    def _measured(self) -> dict[str, Measurement]:
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
    """Ratio, spread and cosine distance over the tokens of all streams, shape (3,), float32."""
    ratios, distances = [], []
    for old, new in zip(before, after, strict=True):
        old, new = old.float(), new.float()
        ratios.append((new.norm(dim=-1) / old.norm(dim=-1).clamp_min(1e-12)).flatten())
        distances.append((1 - torch.cosine_similarity(new, old, dim=-1)).flatten())
    ratio = torch.cat(ratios)
    return torch.stack([ratio.mean(), ratio.std(correction=0), torch.cat(distances).mean()])


def _inner_products(samples: list[torch.Tensor]) -> tuple[list[float], list[list[float]]]:
    """Root mean square of each sample, and its correlations with the earlier ones.

    Both are empty if a sample holds NaN or Inf, or is 0 everywhere.
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
