"""Measurements of several processes, each of its own tokens or branch, as that of the whole."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from ..blocks import Residual
from ..calibrate import Calibrator
from ..curves import Measurement
from .peers import ParallelError, Peers


class PooledCalibrator(Calibrator):
    """Measures what this process holds of the residuals; the result is that of the whole.

    Each process measures its own tokens, or its own branch. Means over tokens are pooled by the
    number of tokens, inner products by the number of entries.

    Args:
        peers: The processes that measure together; None where there is one.
        padding: How many tokens at the end of the whole sequence are none of the sample's.
        share: How many tokens of a sequence of so many lie here, and how many before them.
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
        """(B, tokens, channels) without those of its tokens that are padding."""
        tokens = tensor.shape[1]
        whole, before = (tokens, 0) if self._share is None else self._share(tokens)
        return tensor[:, : max(0, whole - self._padding - before)]

    def release(self) -> None:
        """Frees the residuals kept for comparing, and leaves what was measured to the others."""
        super().release()
        if self._peers and not self._given:
            self._given = True
            own = {
                name: {"measured": asdict(found), "weights": self._weights[name]}
                for name, found in super().finish().items()
            }
            with suppress(RuntimeError):  # after an error the store may be gone
                self._peers.give(self._name, own)

    def finish(self) -> dict[str, Measurement]:
        """The measurement of each curve, pooled."""
        if self._peers is None:
            return super().finish()
        self.release()
        found = self._peers.take(self._name)
        names = dict.fromkeys(name for shares in found for name in shares)
        return {name: _pooled([s[name] for s in found if name in s]) for name in names}


@dataclass
class _Share:
    measured: Measurement
    tokens: int
    entries: int


def _pooled(notes: Sequence[Mapping[str, Any]]) -> Measurement:
    """The measurement of a whole from those of its parts."""
    shares = [_Share(Measurement(**note["measured"]), *note["weights"]) for note in notes]
    first = shares[0].measured
    if any(share.measured.sigmas != first.sigmas for share in shares):
        raise ParallelError("the processes measured at different noise levels: sample again")
    tokens = np.array([share.tokens for share in shares], float)
    columns = {
        f.name: np.array([getattr(share.measured, f.name) for share in shares])
        for f in fields(Measurement)
        if f.name in ("ratios", "spreads", "cosine_distances")
    }
    means = {name: np.average(rows, 0, tokens) for name, rows in columns.items()}
    off = columns["spreads"] ** 2 + (columns["ratios"] - means["ratios"]) ** 2
    norms, correlations = _pooled_products(shares)
    return Measurement(
        first.sigmas,
        means["ratios"].tolist(),
        np.sqrt(np.average(off, 0, tokens)).tolist(),
        means["cosine_distances"].tolist(),
        norms,
        correlations,
    )


def _pooled_products(shares: Sequence[_Share]) -> tuple[list[float], list[list[float]]]:
    if not all(share.measured.norms for share in shares):
        return [], []
    total = sum(share.entries for share in shares)
    count = len(shares[0].measured.sigmas)
    gram = np.zeros((count, count))
    for share in shares:
        norms = np.array(share.measured.norms)
        gram += share.measured.matrix() * norms * norms[:, None] * (share.entries / total)
    norms = np.sqrt(np.diag(gram))
    matrix = np.clip(gram / norms / norms[:, None], -1, 1)
    return norms.tolist(), [np.round(row[:place], 7).tolist() for place, row in enumerate(matrix)]
