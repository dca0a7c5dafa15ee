"""How a model family names its block lists and heads. Each host has a table of families."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature

from torch import nn

from .stack import BlockStack, StackNotFound


@dataclass(frozen=True)
class Family:
    """How the transformers of one family are built.

    Attributes:
        name: The family's name, as used in presets.
        lists: Names of the block lists, starting with the one that holds the first block.
        heads: Names of the first modules that see the output of the block stack.
    """

    name: str
    lists: tuple[str, ...]
    heads: tuple[str, ...]


def plain_module(module: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped, or the module itself."""
    return getattr(module, "_orig_mod", module)


def family_of(module: nn.Module, table: Mapping[str, Family]) -> Family | None:
    """The family of a transformer, by the name of its class or a base class, or None."""
    kinds = (kind.__name__ for kind in type(module).__mro__)
    return next((table[kind] for kind in kinds if kind in table), None)


def find_stack(
    module: nn.Module, table: Mapping[str, Family], guesses: Sequence[Family] = ()
) -> BlockStack:
    """The block stack of a transformer.

    Args:
        module: The transformer.
        table: Families by class name.
        guesses: Families to try, in order, for a class that is not in the table. A guessed
            stack is checked before it is used.

    Raises:
        StackNotFound: The transformer matches neither table nor guesses, or guessing is unsafe.
    """
    kind, family = type(module), family_of(module, table)
    if family:
        return BlockStack(module, family.lists, family.heads)
    if guesses and any(n.startswith("kv_cache") for n in signature(kind.forward).parameters):
        raise StackNotFound(f"{kind.__name__}: its blocks may store what later calls attend to")
    for guess in guesses:
        try:
            return BlockStack(module, guess.lists, guess.heads, guessed=True)
        except StackNotFound:
            continue
    raise StackNotFound(f"the block list and head of {kind.__name__} are unknown")
