"""Runs a model with or without its blocks, through its own forward.

To compute a call, the stack taps the head's input and the first block's arguments. To skip one,
it empties the block lists and adds a predicted residual to the head's input. The model's code is
neither copied nor replaced, and everything is restored when the call returns or raises.
"""

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from .base import Arguments, BaseRule, activations, find_rule
from .taps import Probe, submodule, swapped, tap_input

Residual = tuple[torch.Tensor, ...]
"""What the blocks add, one tensor per head, each (B, tokens, channels)."""
Call = Callable[[], Any]
"""One call of the model, with its arguments bound."""
Mend = Callable[[int, torch.Tensor], torch.Tensor]
"""Given a head's index and residual, returns what to add to that head's input."""
Tap = Callable[[int, torch.Tensor], torch.Tensor | None]
"""Given a head's index and input, may return a replacement for the input."""

_WITHOUT_BLOCKS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NameError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
"""Errors of code that cannot run without blocks. A host's interrupt is none of these."""
_SAME = 0.1  # relative error; rounding is far below, a stream that lacks its blocks far above
_FAILS = "the model fails without its blocks"

_locks: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()


class StackNotFound(ValueError):
    """The module has no block list or head of the given names."""


class StackMismatch(RuntimeError):
    """A residual does not fit the head's input, so the call must be computed."""


class _HeadsReached(Exception):
    """Ends a dry call."""


@dataclass
class _Tape:
    """What is recorded of one computed call."""

    signature: tuple = ()
    arguments: Arguments = field(default_factory=dict)
    bases: list[torch.Tensor] = field(default_factory=list)
    heads: dict[int, torch.Tensor] = field(default_factory=dict)


class BlockStack:
    """The block lists of a module and the heads after them.

    Calls of the same module from several threads take turns.

    Args:
        module: The diffusion transformer.
        lists: Names of its `nn.ModuleList`s of blocks, starting with the one that holds the first
            block. Missing and empty ones are ignored.
        heads: Names of the first modules that see the blocks' output, one per stream. A name may
            be a path such as "decoder.embed".
        guessed: Whether there may be further lists or heads. If so, the first computed call of
            each run checks that skipping with the true residual reproduces the model's output.

    Attributes:
        problem: Why the last computed call gave no residual, or None.
        split: Takes this process's part of all tokens. Needed if the first block splits them
            between processes, since the blocks do not run in a skipped call; None if the host
            splits them before.

    Raises:
        StackNotFound: None of the lists exists, or a head is missing.
    """

    def __init__(
        self,
        module: nn.Module,
        lists: Sequence[str],
        heads: Sequence[str],
        guessed: bool = False,
    ) -> None:
        kind = type(module).__name__
        found = [submodule(module, name) for name in lists]
        self._lists = [m for m in found if isinstance(m, nn.ModuleList) and len(m)]
        if not self._lists:
            raise StackNotFound(f"{kind} has no block list named {' or '.join(lists)}")
        self._heads = [head for name in heads if (head := submodule(module, name)) is not None]
        if not heads or len(self._heads) < len(heads):
            raise StackNotFound(f"{kind} has no head named {' and '.join(heads)}")
        self.problem: str | None = None
        self.split: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._lock = _locks.setdefault(module, threading.RLock())
        self._rules: dict[tuple, list[BaseRule]] = {}  # by signature; [] if no argument holds it
        self._guessed = self._unproven = guessed

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return sum(len(blocks) for blocks in self._lists)

    @property
    def first(self) -> nn.Module:
        """The first block."""
        with self._lock:  # a call in another thread may have emptied the list
            return self._lists[0][0]

    def plain(self, call: Call) -> Any:
        """Runs the model without taking a residual."""
        with self._lock:
            return call()

    def forget_bases(self) -> None:
        """Makes the next computed call of each input shape check the base again."""
        self._rules = {}
        self._unproven = self._guessed

    def compute(self, call: Call, mend: Mend | None = None) -> tuple[Any, Residual | None]:
        """Runs the model with its blocks and takes the residual.

        Args:
            call: The call.
            mend: Corrects the heads' input. Not used if the base is not known beforehand.

        Returns:
            The model's output, and the residual in the blocks' dtype, or None if it could not
            be taken: `problem` then says why.
        """
        tape = _Tape()
        with self._lock:
            self.problem = None
            record = partial(self._record, tape, mend)
            with self._probed(partial(self._show, tape)), self._tapped(record):
                output = call()
            residual = self._residual(tape, call)
            if residual is not None and self._unproven:
                self._unproven = not self._reproduces(output, residual, call)
                if self._unproven:
                    self.problem = "skipping with the true residual changes the model's output"
            return output, None if self._unproven else residual

    def skip(self, call: Call, residual: Residual) -> Any:
        """Runs the model without its blocks and adds `residual` to the heads' input.

        Raises:
            StackMismatch: The residual and the head's input differ in shape, or the call fails
                before it reaches the head.
        """

        reached = False

        def add(head: int, tokens: torch.Tensor) -> torch.Tensor:
            nonlocal reached
            reached = True
            tokens = self._own(tokens)
            if tokens.shape != residual[head].shape:
                got, need = tuple(residual[head].shape), tuple(tokens.shape)
                raise StackMismatch(f"a residual of shape {got} does not fit the head's {need}")
            return tokens + residual[head].to(tokens.dtype)

        with self._lock, self._emptied(), self._tapped(add):
            try:
                return call()
            except _WITHOUT_BLOCKS as error:
                if reached or isinstance(error, torch.OutOfMemoryError):
                    raise
                raise StackMismatch(f"{_FAILS}: {error!r}") from error

    def _show(self, tape: _Tape, arguments: dict[int | str, Any]) -> None:
        """Copies the arguments that may hold the base, because blocks may write in place."""
        tensors = activations(arguments)
        if self.split and tensors:
            first = next(iter(tensors))
            tensors[first] = self.split(tensors[first])
        tape.signature = tuple((k, v.shape, v.dtype) for k, v in tensors.items())
        rules = self._rules.get(tape.signature)
        with torch.no_grad():
            if rules is None:
                tape.arguments = {key: tensor.clone() for key, tensor in tensors.items()}
            else:
                tape.bases = [rule.cut(tensors).clone() for rule in rules]

    def _own(self, tokens: torch.Tensor) -> torch.Tensor:
        """This process's part of a head's input without blocks."""
        return tokens if self.split is None else self.split(tokens)

    def _record(
        self, tape: _Tape, mend: Mend | None, head: int, tokens: torch.Tensor
    ) -> torch.Tensor | None:
        if head in tape.heads:
            self.problem = "a head is called more than once"
        with torch.no_grad():
            if not tape.bases:
                tape.heads[head] = tokens.clone()
            elif tape.bases[head].shape == tokens.shape:
                tape.heads[head] = _subtract(tokens, tape.bases[head])
                return None if mend is None else tokens + mend(head, tape.heads[head])
            else:
                self._rules.pop(tape.signature, None)
                self.problem = "the shape of the head's input changed"
        return None

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
                self.problem = self.problem or "the head sees another shape without the blocks"
                return None
            if tape.signature not in self._rules:
                bases = self._learn(tape, bases)
            return tuple((h - b).to(b.dtype) for h, b in zip(heads, bases, strict=True))

    def _reproduces(self, output: Any, residual: Residual, call: Call) -> bool:
        """Whether a skip reproduces the output, so that no list or head is missing."""
        try:
            pairs = zip(_tensors(output), _tensors(self.skip(call, residual)), strict=True)
            errors = [(new - old).norm() / old.norm() for old, new in pairs]
        except torch.OutOfMemoryError:
            raise
        except _WITHOUT_BLOCKS:
            return False
        return not any(error > _SAME for error in errors)

    def _learn(self, tape: _Tape, bases: list[torch.Tensor]) -> list[torch.Tensor]:
        """Records which arguments hold the bases; returns the bases in the blocks' dtype."""
        rules = [rule for base in bases if (rule := find_rule(base, tape.arguments))]
        found = len(rules) == len(bases)
        self._rules[tape.signature] = rules if found else []
        return [rule.cut(tape.arguments) for rule in rules] if found else bases

    def _dry_call(self, call: Call) -> list[torch.Tensor] | None:
        """The heads' inputs without any block. Stops the call at the last head."""
        seen: dict[int, torch.Tensor] = {}

        def stop(head: int, tokens: torch.Tensor) -> None:
            seen[head] = self._own(tokens).clone()
            if len(seen) == len(self._heads):
                raise _HeadsReached

        try:
            with self._emptied(), self._tapped(stop):
                call()
        except _HeadsReached:
            return [seen[head] for head in range(len(self._heads))]
        except torch.OutOfMemoryError:
            raise
        except _WITHOUT_BLOCKS as error:
            self.problem = f"{_FAILS}: {error!r}"
            return None
        self.problem = "the model does not reach its head without its blocks"
        return None

    @contextmanager
    def _tapped(self, tap: Tap) -> Iterator[None]:
        with ExitStack() as stack:
            for index, head in enumerate(self._heads):
                hook = partial(tap_input, partial(tap, index))
                handle = head.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    @contextmanager
    def _probed(self, show: Callable[[dict[int | str, Any]], None]) -> Iterator[None]:
        blocks = self._lists[0]
        name, first = next(iter(blocks._modules.items()))
        assert first is not None
        with swapped(blocks, {**blocks._modules, name: Probe(first, show)}):
            yield

    @contextmanager
    def _emptied(self) -> Iterator[None]:
        with ExitStack() as stack:
            for blocks in self._lists:
                stack.enter_context(swapped(blocks, {}))
            yield


def _subtract(full: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """full - base, in the dtype of `base` and if possible in its memory."""
    if full.dtype == base.dtype and base.is_contiguous():
        return torch.sub(full, base, out=base)
    return (full - base).to(base.dtype)


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    """The tensors of a model's output, in float32."""
    if isinstance(output, torch.Tensor):
        yield output.float()
    elif isinstance(output, Mapping):
        yield from _tensors(list(output.values()))
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)
