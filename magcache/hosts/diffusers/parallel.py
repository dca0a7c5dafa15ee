"""The processes that sample together, and this process's part of a transformer's tokens.

diffusers splits tokens between processes with hooks on the transformer or on its first block. A
skipped evaluation runs no block, so a split by the first block has to be done here.
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
except ImportError:  # an older diffusers cannot split
    _SPLITS = ()

_TOKENS = "hidden_states"


class Company:
    """The processes that sample together with this one.

    These are the processes between which diffusers has split a transformer or, if each process
    samples one branch, the processes of `group`.

    Args:
        transformers: The models that are sampled. They may be parallelised later.
        branch: The branch that this process samples ("cond", "uncond" or "ref"), if CFG is split
            over processes; None if it samples all.
        group: The torch.distributed group over which CFG is split; None for all processes.
        padding: Number of padding tokens at the end of each sequence, which make its length
            divisible by the number of processes. They are not measured.

    Raises:
        ValueError: `branch` or `group` is invalid, or torch.distributed is not initialised.
    """

    def __init__(
        self,
        transformers: Sequence[nn.Module],
        branch: str | None = None,
        group: Any = None,
        padding: int = 0,
    ) -> None:
        if branch is not None and branch not in ("cond", "uncond", "ref"):
            raise ValueError(f'branch must be "cond", "uncond" or "ref", got {branch!r}')
        if group is not None and branch is None:
            raise ValueError("group= needs branch=, because it is for CFG split over processes")
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
        """Begins a run with the other processes, and checks that their settings agree.

        Args:
            decider, label, budget: The settings to agree on.
            stack: The block stack, if its residual is cached.

        Returns:
            The argument `together` of `Run`.

        Raises:
            ParallelError: The settings differ, or a process failed.
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
        """The calibrator of the run that has begun."""
        if self._peers is None and not self._padding:
            return Calibrator()
        return PooledCalibrator(self._peers, self._padding, share_of(transformer))

    def fail(self, error: BaseException) -> None:
        """Tells the other processes that this one has failed."""
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
    """A function from the number of tokens here to their total number and the number before these.

    Assumes that all processes have the same number. None if this process has all tokens.
    """
    mesh = _context_mesh(transformer)
    if mesh is None:
        return None

    def share(tokens: int) -> tuple[int, int]:
        return tokens * mesh.size(), tokens * mesh.get_local_rank()

    return share


def split_by_first_block(stack: BlockStack) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """A function that takes this process's part of a sequence; None if the first block does not."""
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
    """The processes between which diffusers has split a transformer's tokens or weights."""
    mesh = _context_mesh(transformer)
    if mesh is None:
        config = getattr(transformer, "_parallel_config", None)
        if getattr(config, "tensor_parallel_config", None) is None:
            return ()
        mesh = config._mesh  # type: ignore[union-attr]
    return tuple(sorted(distributed.get_process_group_ranks(mesh.get_group())))
