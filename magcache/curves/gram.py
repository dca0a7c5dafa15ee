"""Gram curves: inner products of a branch's residuals at any two noise levels.

A calibration holds the correlations of the residuals at its own σ. Between two of these, a
residual is modelled as the cubic through its four neighbours plus a component in a direction of
its own. That component grows with the distance of the calibrated residuals from the lines through
their neighbours. So the matrix stays positive semidefinite, and a coarse calibration does not
pretend to know what lies between its points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .magnitude import STEEPEST, MagnitudeCurve

RIDGE = 1e-4  # relative to each residual's own square
_NARROWER = 16  # at half the point distance, the squared bulge of a smooth curve is 16 times less
_ORDER = 4  # number of neighbours that a residual between two points is interpolated from
_LEAST = 1e-9  # floor of a residual's relative square: opposite residuals would give 0 between them
_CROWDED = 0.25  # of a cell's width; with points closer together than this, a cubic oscillates


@dataclass(frozen=True, eq=False)
class GramCurve:
    """⟨r(σ), r(σ′)⟩ of one branch.

    Attributes:
        norms: log‖r‖ at the falling σ of the calibration.
        correlations: ⟨r, r′⟩/(‖r‖·‖r′‖) between them, shape (T, T).

    Raises:
        ValueError: The sizes do not match, or the matrix is not a correlation matrix.
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
        """Index of the expert that `sigma` belongs to."""
        return self.norms.part_at(sigma)

    def between(self, sigmas: np.ndarray) -> np.ndarray:
        """The Gram matrix (n, n) of the residuals at `sigmas` (n,), in any order.

        Outside the calibrated range a residual is modelled as the one at the end of the range,
        with its norm extrapolated, plus unpredictable steps.
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
        """For each cell between two points, the squared distance from the chord at its middle."""
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
        """Weights (n, T) of the calibrated residuals, and the Gram matrix (n, n) of the rest."""
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
        """Cubic weights (n, T), or linear ones where the points are crowded.

        Outside the range the weights are those at its ends.
        """
        xs = self.sigmas
        at, count = np.clip(sigmas, xs[0], xs[-1]), min(_ORDER, len(xs))
        first = np.clip(cell - (count - 2) // 2, 0, len(xs) - count)
        nearest = np.diff(xs[first[:, None] + np.arange(count)]).min(-1)
        crowded = nearest < _CROWDED * (xs[cell + 1] - xs[cell])
        straight, cubic = self._through(at, cell, 2), self._through(at, first, count)
        return np.where(crowded[:, None], straight, cubic)

    def _through(self, at: np.ndarray, first: np.ndarray, count: int) -> np.ndarray:
        """Lagrange weights (n, T) of `count` points each, starting at `first`."""
        places = first[:, None] + np.arange(count)
        points, weights = self.sigmas[places], np.zeros((len(at), len(self.sigmas)))
        for own in range(count):
            others = np.delete(points, own, 1)
            factors = (at[:, None] - others) / (points[:, [own]] - others)
            weights[np.arange(len(at)), places[:, own]] = factors.prod(-1)
        return weights


def best_weights(gram: np.ndarray, ridge: float = RIDGE) -> tuple[np.ndarray, np.ndarray]:
    """The best linear prediction of a residual from cached residuals.

    w = inv(G_HH + ridge·diag G_HH) g_Hσ and error² = G_σσ - 2·wᵀg_Hσ + wᵀG_HH w.

    Args:
        gram: Gram matrices (..., k+1, k+1) of k cached residuals followed by the predicted one.
        ridge: Share of each cached residual's square that is treated as noise.

    Returns:
        The weights (..., k), and the expected error relative to the predicted residual's norm.
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
    """The share of each branch in the squared error of the guided prediction.

    The guided prediction is u + s·(c - u), or m + (s - ½)·d in terms of mean and difference.
    """
    if "mean" in branches:
        return {b: (guidance - 0.5) ** 2 if b == "difference" else 1.0 for b in branches}
    squares = {b: (guidance - 1) ** 2 if b == "uncond" else guidance**2 for b in branches}
    total = sum(squares.values())
    return {b: square / total if total else 1 / len(squares) for b, square in squares.items()}


@dataclass(frozen=True)
class GuidedGrams:
    """The Gram curves of a run's branches, weighted as guidance weights their errors.

    Attributes:
        branches: Gram curve of each branch.
        guidance: CFG scale.
    """

    branches: Mapping[str, GramCurve]
    guidance: float = 1.0

    def predict(
        self, branches: Sequence[str], sigma: float, cached: Sequence[float]
    ) -> tuple[list[float], float]:
        """The best prediction of the residual at `sigma` from those at `cached`, newest last.

        For several branches together, the weights are the best on average, ignoring cross terms.
        A branch without its own curve follows the first one.

        Returns:
            The weights, and the expected error relative to the residual's norm.
        """
        weights, error = best_weights(self.between(branches, [*cached, sigma]))
        return weights.tolist(), float(error)

    def between(self, branches: Sequence[str], sigmas: Sequence[float]) -> np.ndarray:
        """The Gram matrix (n, n) at `sigmas`, summed over branches, weighted like their errors."""
        first = next(iter(self.branches))
        known = dict.fromkeys(b if b in self.branches else first for b in branches)
        at = np.array(sigmas, float)
        shares = guidance_shares(list(known), self.guidance).items()
        return sum((s * self.branches[b].between(at) for b, s in shares), np.zeros(1))
