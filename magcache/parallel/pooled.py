"""Pools the measurements of several processes, each of its own tokens or branch."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from ..blocks import Residual
from ..calibrate import Calibrator
from ..curves import CalibrationError, Measurement
from .peers import ParallelError, Peers


class PooledCalibrator(Calibrator):
    """Measures this process's part of the residuals, and returns the result for the whole.

    Each process measures its own tokens, or its own branch. Means over tokens are weighted by the
    number of tokens, inner products by the number of entries.

    Args:
        peers: The processes that measure together; None for a single one.
        padding: Number of padding tokens at the end of the whole sequence.
        share: Given the number of tokens here, returns the length of the whole sequence and the
            number of its tokens before those here.
    """

    def __init__(
        self,
        peers: Peers | None,
        padding: int = 0,
        share: Callable[[int], tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self._peers = peers
        self._padding = padding
        self._share = share
        self._weights: dict[str, tuple[int, int]] = {}
        self._name = f"{peers.round}/measured" if peers else ""
        self._given = False

    def _add_part(self, key: Any, curve: str, sigma: float, residual: Residual) -> None:
        residual = tuple(map(self._without_padding, residual))
        entries = sum(tensor.numel() for tensor in residual)
        if entries == 0:
            return
        tokens = sum(tensor.numel() // tensor.shape[-1] for tensor in residual)
        self._weights.setdefault(curve, (tokens, entries))
        super()._add_part(key, curve, sigma, residual)

    def _without_padding(self, tensor: Any) -> Any:
        """`tensor`, (B, tokens, channels), without its padding tokens."""
        tokens = tensor.shape[1]
        whole, before = (tokens, 0) if self._share is None else self._share(tokens)
        return tensor[:, : max(0, whole - self._padding - before)]

    def release(self) -> None:
        """Frees the residuals held for comparison, and gives the measurement to the others."""
        super().release()
        if self._peers and not self._given:
            self._given = True
            problem = self.problem()
            shares = {
                name: {"measured": asdict(found), "weights": self._weights[name]}
                for name, found in ({} if problem else self._measured()).items()
            }
            own = {"problem": problem, "shares": shares}
            with suppress(RuntimeError):  # the store may be gone after an error
                self._peers.give(self._name, own)

    def finish(self) -> dict[str, Measurement]:
        """The pooled measurement of each curve; see `Calibrator`."""
        if self._peers is None:
            return super().finish()
        self.release()
        notes = self._peers.take(self._name)
        if problem := next(filter(None, (note["problem"] for note in notes)), ""):
            raise CalibrationError(problem)
        found = [note["shares"] for note in notes]
        names = dict.fromkeys(name for shares in found for name in shares)
        return {name: _pooled([s[name] for s in found if name in s]) for name in names}


def _pooled(notes: Sequence[Mapping[str, Any]]) -> Measurement:
    """The measurement of the whole, from those of its parts."""
    parts = [Measurement(**note["measured"]) for note in notes]
    tokens, entries = np.array([note["weights"] for note in notes], float).T
    sigmas = parts[0].sigmas
    if any(part.sigmas != sigmas for part in parts):
        raise ParallelError("the processes measured at different noise levels: sample again")
    names = ("ratios", "spreads", "cosine_distances")
    ratios, spreads, distances = (np.array([getattr(p, name) for p in parts]) for name in names)
    ratio = np.average(ratios, 0, tokens)
    spread = np.sqrt(np.average(spreads**2 + (ratios - ratio) ** 2, 0, tokens))
    distance = np.average(distances, 0, tokens)
    products = _pooled_products(parts, entries)
    return Measurement(sigmas, ratio.tolist(), spread.tolist(), distance.tolist(), *products)


def _pooled_products(
    parts: Sequence[Measurement], entries: np.ndarray
) -> tuple[list[float], list[list[float]]]:
    if not all(part.norms for part in parts):
        return [], []
    products = [part.matrix() * np.outer(part.norms, part.norms) for part in parts]
    gram = np.average(products, 0, entries)
    norms = np.sqrt(np.diag(gram))
    matrix = np.clip(gram / norms / norms[:, None], -1, 1)
    return norms.tolist(), [np.round(row[:place], 7).tolist() for place, row in enumerate(matrix)]
