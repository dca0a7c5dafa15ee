"""Counts what a run really computes: the work of the layers inside the blocks."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

FULL = 0.99  # a model call with this share of the full work counts as computed


@dataclass
class Work:
    """The counted calls of a model.

    Attributes:
        rows: Batch rows of each call.
        flops: Floating-point operations of the blocks' linear layers and convolutions, per call.
    """

    rows: list[int] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)

    @property
    def total(self) -> float:
        return sum(self.flops)

    @property
    def full(self) -> float:
        """The largest work of any call for one row."""
        return max((f / r for f, r in zip(self.flops, self.rows, strict=True)), default=0.0)

    def computed_rows(self, full: float) -> int:
        """Rows of the calls that did all the work, with `full` operations per row."""
        calls = zip(self.rows, self.flops, strict=True)
        return sum(rows for rows, flops in calls if flops >= FULL * full * rows)


@contextmanager
def counted(model: nn.Module, lists: Sequence[str]) -> Iterator[Work]:
    """Counts the calls of `model`, and the work in its block lists with these names.

    Only layers that are really called count, so it does not matter how a cache skips: whole blocks,
    parts of blocks, or emptied lists. Products inside attention are left out: they are small
    compared with the projections, and are computed or skipped with them.
    """
    work = Work()

    def called(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = args[0] if args else kwargs["hidden_states"]
        work.rows.append(len(first))
        work.flops.append(0.0)

    def multiplied(layer: nn.Module, _args: tuple[Any, ...], output: torch.Tensor) -> None:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        work.flops[-1] += 2.0 * output.numel() * layer.weight[0].numel()

    blocks = [getattr(model, name) for name in lists]
    layers = [m for b in blocks for m in b.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    handles = [model.register_forward_pre_hook(called, with_kwargs=True)]
    handles += [layer.register_forward_hook(multiplied) for layer in layers]
    try:
        yield work
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Cost:
    """The cost of sampling one prompt.

    Attributes:
        flops: Floating-point operations of the blocks' layers.
        computed: Evaluations in which all blocks ran (all branches of a step count as one).
        full: Operations of one row of a computed model call.
    """

    flops: float
    computed: float
    full: float


def cost_of(work: Work, prompts: int, branches: int, full: float | None = None) -> Cost:
    """The mean cost of a prompt; `full` is from the uncached run, or the largest counted."""
    full = full or work.full
    computed = work.computed_rows(full) / (prompts * branches)
    return Cost(work.total / prompts, computed, full)


def one_thread() -> None:
    """Uses one thread, with which small models are fastest."""
    torch.set_num_threads(1)


def quiet() -> None:
    """Uses one thread, and hides the warnings that libraries and rivals give in every run."""
    one_thread()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
