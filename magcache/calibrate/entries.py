"""A small random sample of a residual's entries, the same ones each time."""

from collections.abc import Hashable

import torch

from ..blocks import Residual


class Entries:
    """Draws entries at places that are fixed for each branch.

    Args:
        count: How many entries of a residual to draw, about.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._places: dict[Hashable, tuple[torch.Tensor, ...]] = {}

    def of(self, branch: Hashable, residual: Residual) -> torch.Tensor:
        """Its sampled entries, one dimension, on its device and in its dtype."""
        if branch not in self._places:
            self._places[branch] = places(residual, self._count)
        streams = zip(residual, self._places[branch], strict=True)
        return torch.cat([tensor.flatten()[drawn] for tensor, drawn in streams])


def size_of(residual: Residual) -> torch.Tensor:
    """Sum of its entries' magnitudes, on its device: NaN or Inf where any entry is, 0 if all are.

    Summed in float32, which makes no copy.
    """
    return torch.stack(
        [torch.linalg.vector_norm(tensor, 1, dtype=torch.float32) for tensor in residual]
    ).sum()


def places(residual: Residual, count: int) -> tuple[torch.Tensor, ...]:
    """Fixed random entries of each stream, by its size; every channel equally often.

    A stream may be empty, like that of the audio of a video without any.

    A few channels of a large transformer are far greater than the others, so how often they
    are drawn must not be left to chance.
    """
    generator = torch.Generator().manual_seed(0)
    total = sum(tensor.numel() for tensor in residual)
    found = []
    for tensor in residual:
        channels = tensor.shape[-1]
        rows = tensor.numel() // channels
        each = min(rows, -(-count * tensor.numel() // (total * channels)))
        drawn = torch.randint(max(1, rows), (each, channels), generator=generator)
        entries = drawn * channels + torch.arange(channels)
        found.append(entries.flatten().to(tensor.device))
    return tuple(found)
