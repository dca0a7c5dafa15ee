"""Gram curves: inner products of a branch's residuals at any two noise levels.

A calibration knows the residuals' correlations at its own σ. Between two of them a residual is
taken to lie near the cubic through its four neighbours, off it in a direction of its own, the
further the more the calibration's residuals lie off the lines through theirs. So the matrix stays
positive semidefinite, and no information is invented between the points of a coarse calibration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .magnitude import STEEPEST, MagnitudeCurve

RIDGE = 1e-4  # of each residual's own square
_NARROWER = 16  # half the distance between points: a smooth curve's bulge squared falls by 16
_ORDER = 4  # neighbours that a residual between two points is interpolated from
_LEAST = 1e-9  # of a residual's square; residuals that point opposite ways leave 0 between them
_CROWDED = 0.25  # of a cell's width: with points closer together a cubic would swing


@dataclass(frozen=True, eq=False)
class GramCurve:
    """⟨r(σ), r(σ′)⟩ of one branch.

    Attributes:
        norms: log‖r‖ at the σ of the calibration, which fall.
        correlations: ⟨r, r′⟩/(‖r‖·‖r′‖) between them, shape (T, T).

    Raises:
        ValueError: The two do not match, or the matrix is no correlation matrix.
    """

    norms: MagnitudeCurve
    correlations: np.ndarray

    def __post_init__(self) -> None:
        count, matrix = len(self.norms.positions), self.correlations
        if matrix.shape != (count, count):
            raise ValueError(f"{count} norms do not match correlations of shape {matrix.shape}")
        if not (np.isfinite(matrix).all() and np.abs(matrix).max() <= 1 + 1e-6):
            raise ValueError("correlations must lie between -1 and 1")

    @cached_property
    def sigmas(self) -> np.ndarray:
        """The calibration's σ, rising."""
        return np.array(self.norms.positions[::-1])

    def part(self, index: int) -> "GramCurve":
        """The curve of one expert: 0 for high noise, 1 for low noise."""
        start, stop = self.norms.span(index)
        return GramCurve(self.norms.part(index), self.correlations[start:stop, start:stop])

    def part_at(self, sigma: float) -> int:
        """Index of the part that `sigma` lies in."""
        return self.norms.part_at(sigma)

    def between(self, sigmas: np.ndarray) -> np.ndarray:
        """The Gram matrix (n, n) of the residuals at `sigmas` (n,), in any order.

        Outside the calibrated range a residual is the one at the end of the range, with the
        norm's slope going on, plus steps that no one can predict.
        """
        curves, bulges = self._weights(sigmas)
        matrix = curves @ self._rising @ curves.T + bulges
        logs = [self.norms.log_norm(sigma) for sigma in sigmas]
        scale = np.exp(np.clip(logs, -STEEPEST, STEEPEST))
        scale /= np.sqrt(np.maximum(np.diag(matrix), _LEAST))
        return matrix * scale * scale[:, None]

    @cached_property
    def _rising(self) -> np.ndarray:
        return self.correlations[::-1, ::-1]

    @cached_property
    def _bulges(self) -> np.ndarray:
        """For each cell between two points the squared distance from the line at its middle."""
        xs, matrix = self.sigmas, self._rising
        ends = 2 * (1 - np.diag(matrix, 1))  # squared chords
        if len(xs) < 3:
            return ends / 4
        off = np.zeros(len(xs) - 2)
        for place in range(1, len(xs) - 1):
            weight = (xs[place + 1] - xs[place]) / (xs[place + 1] - xs[place - 1])
            line = np.array([weight, -1.0, 1 - weight])
            near = slice(place - 1, place + 2)
            off[place - 1] = line @ matrix[near, near] @ line
        off = np.concatenate([off[:1], off, off[-1:]])
        return np.maximum(np.maximum(off[:-1], off[1:]), 0) / _NARROWER

    def _weights(self, sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights (n, T) of the calibration's residuals, and what lies off them, (n, n)."""
        xs = self.sigmas
        if len(xs) == 1:
            return np.ones((len(sigmas), 1)), np.zeros((len(sigmas), len(sigmas)))
        cell = np.clip(np.searchsorted(xs, sigmas) - 1, 0, len(xs) - 2)
        place = (sigmas - xs[cell]) / (xs[cell + 1] - xs[cell])
        inside = np.clip(place, 0, 1)
        low, high = np.minimum.outer(inside, inside), np.maximum.outer(inside, inside)
        off = 4 * low * (1 - high) * self._bulges[cell]  # a bridge from point to point
        beyond = place - inside
        chords = 2 * (1 - np.diag(self._rising, 1))
        far = np.minimum.outer(np.abs(beyond), np.abs(beyond)) * chords[cell]
        off = off + np.where(np.multiply.outer(beyond, beyond) > 0, far, 0)
        return self._curves(sigmas, cell), np.where(cell[:, None] == cell, off, 0)

    def _curves(self, sigmas: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Weights (n, T) of the residuals next to each cell; where they are crowded, of its ends.

        Outside the range they are those at its ends.
        """
        xs = self.sigmas
        at, count = np.clip(sigmas, xs[0], xs[-1]), min(_ORDER, len(xs))
        first = np.clip(cell - (count - 2) // 2, 0, len(xs) - count)
        nearest = np.diff(xs[first[:, None] + np.arange(count)]).min(-1)
        crowded = nearest < _CROWDED * (xs[cell + 1] - xs[cell])
        straight, cubic = self._through(at, cell, 2), self._through(at, first, count)
        return np.where(crowded[:, None], straight, cubic)

    def _through(self, at: np.ndarray, first: np.ndarray, count: int) -> np.ndarray:
        """Lagrange's weights (n, T) of `count` points each, from the `first` on."""
        places = first[:, None] + np.arange(count)
        points, weights = self.sigmas[places], np.zeros((len(at), len(self.sigmas)))
        for own in range(count):
            others = np.delete(points, own, 1)
            factors = (at[:, None] - others) / (points[:, [own]] - others)
            weights[np.arange(len(at)), places[:, own]] = factors.prod(-1)
        return weights


def best_weights(gram: np.ndarray, ridge: float = RIDGE) -> tuple[np.ndarray, np.ndarray]:
    """The best linear prediction of a residual from cached ones.

    w = inv(G_HH + ridge·diag G_HH) g_Hσ and error² = G_σσ - 2·wᵀg_Hσ + wᵀG_HH w.

    Args:
        gram: Gram matrices (..., k+1, k+1) of k cached residuals and, last, the wanted one.
        ridge: Share of each cached residual that is taken for noise.

    Returns:
        The weights (..., k), and the expected error as a share of the wanted residual's norm.
    """
    cached, wanted = gram[..., :-1, :-1], gram[..., :-1, -1]
    own = np.sqrt(np.diagonal(cached, axis1=-2, axis2=-1))
    unit = cached / own[..., None] / own[..., None, :]
    noisy = unit + ridge * np.eye(unit.shape[-1])
    solved = np.linalg.solve(noisy, (wanted / own)[..., None])[..., 0]
    size = gram[..., -1, -1]
    explained = (solved * wanted / own).sum(-1)
    square = size - 2 * explained + np.einsum("...i,...ij,...j->...", solved, unit, solved)
    return solved / own, np.sqrt(np.maximum(square, 0) / size)


def guidance_shares(branches: Sequence[str], guidance: float) -> dict[str, float]:
    """How much of the squared error of the guided prediction each branch brings.

    The guided prediction is u + s·(c - u), or of their mean and their difference m + (s - ½)·d.
    """
    if "mean" in branches:
        return {b: (guidance - 0.5) ** 2 if b == "difference" else 1.0 for b in branches}
    squares = {b: (guidance - 1) ** 2 if b == "uncond" else guidance**2 for b in branches}
    total = sum(squares.values())
    return {b: square / total if total else 1 / len(squares) for b, square in squares.items()}


@dataclass(frozen=True)
class GuidedGrams:
    """The Gram curves of a run's branches, weighed as its guidance weighs their errors.

    Attributes:
        branches: Gram curve of each branch.
        guidance: CFG scale.
    """

    branches: Mapping[str, GramCurve]
    guidance: float = 1.0

    def predict(
        self, branches: Sequence[str], sigma: float, cached: Sequence[float]
    ) -> tuple[list[float], float]:
        """The best prediction of the residual at `sigma` from those at `cached`, the newest last.

        Of several branches together, the weights that are best on average, cross terms left out;
        a branch without a curve of its own follows the first.

        Returns:
            Weights, and the expected error as a share of the residual's norm.
        """
        weights, error = best_weights(self.between(branches, [*cached, sigma]))
        return weights.tolist(), float(error)

    def between(self, branches: Sequence[str], sigmas: Sequence[float]) -> np.ndarray:
        """The Gram matrix (n, n) at `sigmas`, its branches weighed as their errors are."""
        first = next(iter(self.branches))
        known = dict.fromkeys(b if b in self.branches else first for b in branches)
        at = np.array(sigmas, float)
        shares = guidance_shares(list(known), self.guidance).items()
        return sum((s * self.branches[b].between(at) for b, s in shares), np.zeros(1))
