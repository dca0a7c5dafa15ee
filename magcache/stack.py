"""Running a model with or without its blocks, through its own forward.

For one call, a compute taps the head's input and the first block's arguments; a skip empties
the block lists and adds a predicted residual to the head's input. The model's code is neither
copied nor replaced, and everything is as before when the call returns or raises.
"""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

Residual = tuple[torch.Tensor, ...]
"""What the blocks add, one tensor a head, each (B, tokens, channels)."""
Call = Callable[[], Any]
"""One call of the model, arguments bound."""
Arguments = dict[int | str, torch.Tensor]
"""The first block's tensors, by position or name."""
Tap = Callable[[int, torch.Tensor], torch.Tensor | None]
"""Sees the index and the input of a head, and may replace the input."""

_WITHOUT_BLOCKS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NameError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
"""What code raises that cannot do without blocks; a host's interrupt is none of these."""

_locks: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()


class StackNotFound(ValueError):
    """The module has no block list or head of the names asked for."""


class StackMismatch(RuntimeError):
    """A residual does not fit the head's input; the call has to be computed."""


class _HeadsReached(Exception):
    """Ends a dry call."""


@dataclass(frozen=True)
class _BaseRule:
    """Where the first block's arguments hold one head's base: which argument, which tokens."""

    argument: int | str
    start: int | None  # None: the whole tensor
    tokens: int

    def cut(self, arguments: Arguments) -> torch.Tensor:
        tensor = arguments[self.argument]
        return tensor if self.start is None else tensor.narrow(1, self.start, self.tokens)


@dataclass
class _Tape:
    """What one computed call shows."""

    signature: tuple = ()
    arguments: Arguments = field(default_factory=dict)
    bases: list[torch.Tensor] = field(default_factory=list)
    heads: dict[int, torch.Tensor] = field(default_factory=dict)


class _Probe:
    """Stands in for the first block during one call and shows what it is given.

    A forward hook would not do: it would become part of a compiled block's graph.
    """

    def __init__(self, block: nn.Module, show: Callable[[dict[int | str, Any]], None]) -> None:
        self._block = block
        self._show = show

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._show({**dict(enumerate(args)), **kwargs})
        return self._block(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)


class BlockStack:
    """The block lists of a module and the heads behind them.

    Calls of one module from several threads take turns.

    Args:
        module: The diffusion transformer.
        lists: Names of its `nn.ModuleList`s of blocks, the one with the first block in front.
            Absent and empty ones are left out.
        heads: Names of the modules that first see the blocks' output, one a stream.

    Attributes:
        problem: Why the last computed call gave no residual, or None.
        dry_calls: How many calls were made only to measure the base.

    Raises:
        StackNotFound: There is no such list, or a head is missing.
    """

    def __init__(self, module: nn.Module, lists: Sequence[str], heads: Sequence[str]) -> None:
        kind = type(module).__name__
        found = [getattr(module, name, None) for name in lists]
        self._lists = [m for m in found if isinstance(m, nn.ModuleList) and len(m)]
        if not self._lists:
            raise StackNotFound(f"{kind} has no list of blocks named {' or '.join(lists)}")
        self._heads = [m for n in heads if isinstance(m := getattr(module, n, None), nn.Module)]
        if not heads or len(self._heads) < len(heads):
            raise StackNotFound(f"{kind} has no head named {' and '.join(heads)}")
        self.problem: str | None = None
        self.dry_calls = 0
        self._lock = _locks.setdefault(module, threading.RLock())
        self._rules: dict[tuple, list[_BaseRule]] = {}  # by signature; [] where none holds

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return sum(len(blocks) for blocks in self._lists)

    def plain(self, call: Call) -> Any:
        """Runs the model as it is and takes nothing."""
        with self._lock:
            return call()

    def forget_bases(self) -> None:
        """Has the base checked anew at the next computed call of each input shape."""
        self._rules = {}

    def compute(self, call: Call) -> tuple[Any, Residual | None]:
        """Runs the model as it is.

        Returns:
            The model's own output, and the residual in the blocks' dtype; None where none
            could be taken, `problem` then says why.
        """
        tape = _Tape()
        with self._lock:
            self.problem = None
            with self._probed(partial(self._show, tape)), self._tapped(partial(self._record, tape)):
                output = call()
            return output, self._residual(tape, call)

    def skip(self, call: Call, residual: Residual) -> Any:
        """Runs the model without its blocks and adds `residual` to what its heads see.

        Raises:
            StackMismatch: The residual's shape is not that of the head's input.
        """

        def add(head: int, tokens: torch.Tensor) -> torch.Tensor:
            if tokens.shape != residual[head].shape:
                got, need = tuple(residual[head].shape), tuple(tokens.shape)
                raise StackMismatch(f"a residual of shape {got} does not fit a head's {need}")
            return tokens + residual[head].to(tokens.dtype)

        with self._lock, self._emptied(), self._tapped(add):
            return call()

    def _show(self, tape: _Tape, arguments: dict[int | str, Any]) -> None:
        """Keeps copies of what the base can be made from: blocks write in place."""
        tensors = {k: v for k, v in arguments.items() if _is_activation(v)}
        tape.signature = tuple((k, v.shape, v.dtype) for k, v in tensors.items())
        rules = self._rules.get(tape.signature)
        with torch.no_grad():
            if rules is None:
                tape.arguments = {key: tensor.clone() for key, tensor in tensors.items()}
            else:
                tape.bases = [rule.cut(tensors).clone() for rule in rules]

    def _record(self, tape: _Tape, head: int, tokens: torch.Tensor) -> None:
        if head in tape.heads:
            self.problem = "a head is called more than once"
        with torch.no_grad():
            if not tape.bases:
                tape.heads[head] = tokens.clone()
            elif tape.bases[head].shape == tokens.shape:
                tape.heads[head] = _subtract(tokens, tape.bases[head])
            else:
                self._rules.pop(tape.signature, None)
                self.problem = "the head's input changed its shape"

    def _residual(self, tape: _Tape, call: Call) -> Residual | None:
        if len(tape.heads) < len(self._heads):
            self.problem = self.problem or "the head was not called"
        if self.problem:
            return None
        heads = [tape.heads[head] for head in range(len(self._heads))]
        if tape.bases:
            return tuple(heads)
        with torch.no_grad():
            bases = self._dry_call(call)
            if bases is None or any(b.shape != h.shape for b, h in zip(bases, heads, strict=True)):
                self.problem = self.problem or "without its blocks the head sees another shape"
                return None
            if tape.signature not in self._rules:
                bases = self._learn(tape, bases)
            return tuple((h - b).to(b.dtype) for h, b in zip(heads, bases, strict=True))

    def _learn(self, tape: _Tape, bases: list[torch.Tensor]) -> list[torch.Tensor]:
        """Notes which arguments hold the bases, and returns the bases in the blocks' dtype."""
        rules = [rule for base in bases if (rule := _find_rule(base, tape.arguments))]
        found = len(rules) == len(bases)
        self._rules[tape.signature] = rules if found else []
        return [rule.cut(tape.arguments) for rule in rules] if found else bases

    def _dry_call(self, call: Call) -> list[torch.Tensor] | None:
        """What the heads see without any block; ends at the last head."""
        seen: dict[int, torch.Tensor] = {}

        def stop(head: int, tokens: torch.Tensor) -> None:
            seen[head] = tokens.clone()
            if len(seen) == len(self._heads):
                raise _HeadsReached

        self.dry_calls += 1
        try:
            with self._emptied(), self._tapped(stop):
                call()
        except _HeadsReached:
            return [seen[head] for head in range(len(self._heads))]
        except torch.OutOfMemoryError:
            raise
        except _WITHOUT_BLOCKS as error:
            self.problem = f"without its blocks the model fails: {error!r}"
            return None
        self.problem = "without its blocks the model does not reach its head"
        return None

    @contextmanager
    def _tapped(self, tap: Tap) -> Iterator[None]:
        with ExitStack() as stack:
            for index, head in enumerate(self._heads):
                hook = partial(_tap_input, partial(tap, index))
                handle = head.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    @contextmanager
    def _probed(self, show: Callable[[dict[int | str, Any]], None]) -> Iterator[None]:
        blocks = self._lists[0]
        name, first = next(iter(blocks._modules.items()))
        assert first is not None
        with _swapped(blocks, {**blocks._modules, name: _Probe(first, show)}):
            yield

    @contextmanager
    def _emptied(self) -> Iterator[None]:
        with ExitStack() as stack:
            for blocks in self._lists:
                stack.enter_context(_swapped(blocks, {}))
            yield


@contextmanager
def _swapped(blocks: nn.ModuleList, modules: dict[str, Any]) -> Iterator[None]:
    """Gives a list other entries for a while; the list itself, and who holds it, stay."""
    kept = blocks._modules
    blocks._modules = modules
    try:
        yield
    finally:
        blocks._modules = kept


def _tap_input(
    tap: Callable[[torch.Tensor], torch.Tensor | None],
    _module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """A forward pre-hook: shows the first tensor to `tap` and puts in its place what it returns."""
    if args:
        replaced = tap(args[0])
        return None if replaced is None else ((replaced, *args[1:]), kwargs)
    name = next(key for key, value in kwargs.items() if isinstance(value, torch.Tensor))
    replaced = tap(kwargs[name])
    return None if replaced is None else (args, {**kwargs, name: replaced})


def _is_activation(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim >= 3


def _find_rule(base: torch.Tensor, arguments: Arguments) -> _BaseRule | None:
    """The argument that holds `base`: whole, its first tokens or its last ones."""
    tokens = base.shape[1]
    for name, tensor in arguments.items():
        if tensor.ndim != base.ndim or tensor.shape[1] < tokens:
            continue
        starts = [None] if tensor.shape[1] == tokens else [0, tensor.shape[1] - tokens]
        for start in starts:
            rule = _BaseRule(name, start, tokens)
            cut = rule.cut({name: tensor})
            if cut.shape == base.shape and torch.equal(cut.to(base.dtype), base):
                return rule
    return None


def _subtract(full: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """full - base in the memory and dtype of `base`, which is not needed any more."""
    if full.dtype == base.dtype and base.is_contiguous():
        return torch.sub(full, base, out=base)
    return (full - base).to(base.dtype)
