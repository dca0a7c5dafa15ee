"""The base: what a head sees without any block, found among the first block's arguments."""

from dataclasses import dataclass
from typing import Any

import torch

Arguments = dict[tuple[int | str, int], torch.Tensor]
"""The first block's tensors, by argument position or name, and by index within a tuple."""


@dataclass(frozen=True)
class BaseRule:
    """Where the first block's arguments hold one head's base: which argument, which tokens.

    The head's input may have a different shape, for example frames, rows and columns.
    """

    argument: tuple[int | str, int]
    start: int
    tokens: int
    shape: torch.Size

    def cut(self, arguments: Arguments) -> torch.Tensor:
        rows = _by_token(arguments[self.argument])
        return rows.narrow(1, self.start, self.tokens).reshape(self.shape)


def activations(arguments: dict[int | str, Any]) -> Arguments:
    """The tensors among a block's arguments that can hold tokens."""
    found: Arguments = {}
    for name, value in arguments.items():
        streams = value if isinstance(value, (tuple, list)) else (value,)
        for place, each in enumerate(streams):
            if isinstance(each, torch.Tensor) and each.is_floating_point() and each.ndim > 1:
                found[name, place] = each
    return found


def _by_token(tensor: torch.Tensor) -> torch.Tensor:
    """Reshapes to (B, tokens, channels), also from frames, rows and columns or unbatched tokens."""
    return tensor.flatten(1, -2) if tensor.ndim > 2 else tensor[None]


def find_rule(base: torch.Tensor, arguments: Arguments) -> BaseRule | None:
    """Finds the argument that holds `base` as all, the first or the last of its tokens."""
    for name, tensor in arguments.items():
        batch, available, channels = _by_token(tensor).shape
        tokens = base.numel() // (batch * channels)
        if channels != base.shape[-1] or tokens > available:
            continue
        if batch * tokens * channels != base.numel():
            continue
        for start in dict.fromkeys((0, available - tokens)):
            rule = BaseRule(name, start, tokens, base.shape)
            if torch.equal(rule.cut(arguments).to(base.dtype), base):
                return rule
    return None
