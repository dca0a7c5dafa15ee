"""Measurements: statistics of one branch's residuals, evaluation by evaluation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from .gram import GramCurve
from .magnitude import MagnitudeCurve


@dataclass
class Measurement:
    """What was measured on one branch, one value per evaluation.

    The first value of each ratio, spread and cosine distance is a placeholder, because it has no
    predecessor. A published list has only the ratios, and usually the noise levels; the other
    lists are empty.

    Attributes:
        sigmas: Noise levels; empty if unknown.
        ratios: Mean over tokens of ‖r_t‖/‖r_{t-1}‖; first 1.0.
        spreads: Standard deviation of that ratio over tokens; first 0.0.
        cosine_distances: Mean over tokens of 1 - cos(r_t, r_{t-1}); first 0.0.
        norms: Root mean square of the residual's entries; empty if not measured.
        correlations: For each evaluation t, ⟨r_t, r_s⟩/(‖r_t‖·‖r_s‖) with every earlier
            evaluation s; the first row is empty.
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

    def curve(self, switch_at: float | None = None) -> MagnitudeCurve:
        """The magnitude curve; `switch_at` is the σ at which a second expert takes over."""
        if not self.sigmas:
            return MagnitudeCurve.from_ratios(self.ratios)
        # A second-order sampler evaluates one σ twice: ratios are multiplied up to the next new σ.
        sigmas, ratios, product = [self.sigmas[0]], [self.ratios[0]], 1.0
        for sigma, ratio in zip(self.sigmas[1:], self.ratios[1:], strict=True):
            product *= ratio
            if sigma < sigmas[-1]:
                sigmas.append(sigma)
                ratios.append(product)
                product = 1.0
        switch = None
        if switch_at is not None:
            switch = sum(sigma >= switch_at for sigma in sigmas), switch_at
        return MagnitudeCurve.from_ratios(ratios, sigmas, switch)

    def gram(self, switch_at: float | None = None) -> GramCurve:
        """The Gram curve. Needs norms and correlations."""
        kept = falling_places(self.sigmas)
        logs = tuple(math.log(self.norms[place]) for place in kept)
        norms = replace(self.curve(switch_at), log_norms=logs)
        return GramCurve(norms, self.matrix()[np.ix_(kept, kept)])


def join(
    high: dict[str, Measurement], low: dict[str, Measurement]
) -> tuple[dict[str, Measurement], float]:
    """Joins the measurements of a run's two experts; returns them and the σ of the switch."""
    branches = {branch: _joined(high[branch], low[branch]) for branch in high if branch in low}
    before, after = (next(iter(part.values())).sigmas for part in (high, low))
    return branches, (before[-1] + after[0]) / 2


def _joined(high: Measurement, low: Measurement) -> Measurement:
    names = [f.name for f in fields(Measurement) if f.name != "correlations"]
    both = Measurement(**{n: getattr(high, n) + getattr(low, n) for n in names})
    if high.correlations and low.correlations:
        # A residual of one expert says nothing about one of the other.
        apart = [[0.0] * len(high.sigmas) + row for row in low.correlations]
        both.correlations = high.correlations + apart
    return both


def falling_places(sigmas: Sequence[float]) -> list[int]:
    """Indices of the evaluations that curves are made of: each at a lower σ than all before.

    Of several evaluations at one σ the first is kept, because it lies on the sampler's own path.
    """
    return [p for p, sigma in enumerate(sigmas) if not p or sigma < min(sigmas[:p])]
