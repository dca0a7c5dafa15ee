"""Which processes sample together, and which of a transformer's tokens this one has.

diffusers splits tokens over processes by hooks, on the transformer or on its first block. A
skipped evaluation runs no block, so a split that belongs to the first block is made here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import distributed, nn

from ...blocks import BlockStack
from ...calibrate import Calibrator
from ...decide import Decider
from ...parallel import Peers, PooledCalibrator, default_store, described

try:
    from diffusers.hooks.context_parallel import ContextParallelSplitHook

    _SPLITS: tuple[Any, ...] = (ContextParallelSplitHook,)
except ImportError:  # an older diffusers, which does not split
    _SPLITS = ()

_TOKENS = "hidden_states"


class Company:
    """The processes that sample together with this one.

    These are the ones among which diffusers has split a transformer, or, where each process
    samples a branch, those of `group`.

    Args:
        transformers: The models that are sampled; parallelism may be put on them later.
        branch: The one that this process samples, "cond", "uncond" or "ref", where CFG is split
            over processes; None where it samples all.
        group: The torch.distributed group of the processes that `branch` is about; None for all.
        padding: How many tokens at the end of each sequence only make it divisible by the number
            of processes; they are not measured.

    Raises:
        ValueError: There is no torch.distributed to split branches over.
    """

    def __init__(
        self,
        transformers: Sequence[nn.Module],
        branch: str | None = None,
        group: Any = None,
        padding: int = 0,
    ) -> None:
        if branch is not None and branch not in ("cond", "uncond", "ref"):
            raise ValueError(f'branch is "cond", "uncond" or "ref", got {branch!r}')
        if group is not None and branch is None:
            raise ValueError("group belongs to branch=, where CFG is split over processes")
        if branch is not None and not _is_distributed():
            raise ValueError("branch= is for several processes: call init_process_group first")
        self.branch = branch
        self._transformers = list(transformers)
        self._group = group
        self._padding = padding
        self._peers: Peers | None = None

    def begin(
        self, decider: Decider, label: str, budget: int | None, stack: BlockStack | None
    ) -> Sequence[str] | None:
        """Begins a run with the others: makes sure that they decide alike.

        Args:
            decider, label, budget: What they have to agree on.
            stack: The blocks, where their residual is cached.

        Returns:
            What `Run` takes as `together`.

        Raises:
            ParallelError: They do not.
        """
        if stack is not None:
            stack.split = split_by_first_block(stack)
        ranks = self._ranks()
        if len(ranks) < 2:
            self._peers = None
            return None
        if self._peers is None or self._peers.ranks != ranks:
            self._peers = Peers(ranks, distributed.get_rank(), default_store())
        self._peers.agree(described(decider, label, budget))
        return () if self.branch is None else tuple(decider.curves)

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return len(self._ranks()) > 1

    def calibrator(self, transformer: nn.Module) -> Calibrator:
        """Measures a run that has begun."""
        if self._peers is None and not self._padding:
            return Calibrator()
        return PooledCalibrator(self._peers, self._padding, share_of(transformer))

    def fail(self, error: BaseException) -> None:
        """Tells the others that this process will not go on."""
        if self._peers is not None:
            self._peers.fail(error)

    def _ranks(self) -> tuple[int, ...]:
        if not _is_distributed():
            return ()
        if self.branch is not None:
            group = distributed.group.WORLD if self._group is None else self._group
            return tuple(sorted(distributed.get_process_group_ranks(group)))
        return next(filter(None, map(_ranks_of, self._transformers)), ())


def share_of(transformer: nn.Module) -> Callable[[int], tuple[int, int]] | None:
    """Tells for so many tokens here how many there are in all, and how many before these.

    None where a process has them all. Each is taken to have as many.
    """
    mesh = _context_mesh(transformer)
    if mesh is None:
        return None

    def share(tokens: int) -> tuple[int, int]:
        return tokens * mesh.size(), tokens * mesh.get_local_rank()

    return share


def split_by_first_block(stack: BlockStack) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """This process's part of a sequence, where a hook of the first block makes it; else None."""
    block = stack.first
    registry = getattr(block, "_diffusers_hook", None)
    for hook in registry.hooks.values() if registry else ():
        if isinstance(hook, _SPLITS) and _TOKENS in hook.metadata:
            return lambda tokens, hook=hook: _split(hook, block, tokens)
    return None


def _split(hook: Any, block: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    others = dict.fromkeys(name for name in hook.metadata if isinstance(name, str))
    _, split = hook.pre_forward(block, **{**others, _TOKENS: tokens})
    return split[_TOKENS]


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _context_mesh(transformer: nn.Module) -> Any:
    config = getattr(transformer, "_parallel_config", None)
    return getattr(getattr(config, "context_parallel_config", None), "_flattened_mesh", None)


def _ranks_of(transformer: nn.Module) -> tuple[int, ...]:
    """The processes among which diffusers has split a transformer's tokens or weights."""
    mesh = _context_mesh(transformer)
    if mesh is None:
        config = getattr(transformer, "_parallel_config", None)
        if getattr(config, "tensor_parallel_config", None) is None:
            return ()
        mesh = config._mesh  # type: ignore[union-attr]
    return tuple(sorted(distributed.get_process_group_ranks(mesh.get_group())))
