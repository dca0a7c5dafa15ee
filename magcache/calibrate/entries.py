"""A small random sample of a residual's entries, always at the same places."""

from collections.abc import Hashable

import torch

from ..blocks import Residual


class Entries:
    """Samples entries at places that are fixed for each branch.

    Args:
        count: Approximate number of entries to sample from a residual.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._places: dict[Hashable, tuple[torch.Tensor, ...]] = {}

    def of(self, branch: Hashable, residual: Residual) -> torch.Tensor:
        """The sampled entries, one-dimensional, on the residual's device and in its dtype."""
        if branch not in self._places:
            self._places[branch] = places(residual, self._count)
        streams = zip(residual, self._places[branch], strict=True)
        return torch.cat([tensor.flatten()[drawn] for tensor, drawn in streams])


def size_of(residual: Residual) -> torch.Tensor:
    """Sum of absolute values, on the residual's device: NaN or Inf if an entry is, 0 if all are.

    Summed in float32 without copying the residual.
    """
    return torch.stack(
        [torch.linalg.vector_norm(tensor, 1, dtype=torch.float32) for tensor in residual]
    ).sum()


def places(residual: Residual, count: int) -> tuple[torch.Tensor, ...]:
    """Fixed random places in each stream, in proportion to its size, with all channels equally.

    A few channels of a large transformer are much larger than the others, so how often they are
    drawn must not depend on chance. A stream may be empty, such as the audio of a silent video.
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
