"""Observes and changes the inputs of a model's modules for one call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def swapped(blocks: nn.ModuleList, modules: dict[str, Any]) -> Iterator[None]:
    """Temporarily replaces a list's entries. The list object itself stays the same."""
    kept = blocks._modules
    blocks._modules = modules
    try:
        yield
    finally:
        blocks._modules = kept


def tap_input(
    tap: Callable[[torch.Tensor], torch.Tensor | None],
    _module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """A forward pre-hook: passes the first tensor to `tap`, which may return a replacement."""
    if args:
        replaced = tap(args[0])
        return None if replaced is None else ((replaced, *args[1:]), kwargs)
    name = next(key for key, value in kwargs.items() if isinstance(value, torch.Tensor))
    replaced = tap(kwargs[name])
    return None if replaced is None else (args, {**kwargs, name: replaced})


class Probe:
    """Stands in for the first block during one call and reports its arguments.

    A forward hook would become part of a compiled block's graph.
    """

    def __init__(self, block: nn.Module, show: Callable[[dict[int | str, Any]], None]) -> None:
        self._block = block
        self._show = show

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._show({**dict(enumerate(args)), **kwargs})
        return self._block(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)


def submodule(module: nn.Module, name: str) -> nn.Module | None:
    """The submodule at a path such as "decoder.embed", or None."""
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None
