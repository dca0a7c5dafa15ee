"""How a model family names its blocks and its head; the hosts have a table of these each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature

from torch import nn

from .stack import BlockStack, StackNotFound


@dataclass(frozen=True)
class Family:
    """How the transformers of one family are built.

    Attributes:
        name: The family's name, as presets give it.
        lists: Names of the block lists, the one with the first block in front.
        heads: Names of the modules that first see the blocks' output.
    """

    name: str
    lists: tuple[str, ...]
    heads: tuple[str, ...]


def plain_module(module: nn.Module) -> nn.Module:
    """The module that `torch.compile` has wrapped, or the module itself."""
    return getattr(module, "_orig_mod", module)


def family_of(module: nn.Module, table: Mapping[str, Family]) -> Family | None:
    """The family of a transformer by its class name or a base's, or None."""
    kinds = (kind.__name__ for kind in type(module).__mro__)
    return next((table[kind] for kind in kinds if kind in table), None)


def find_stack(
    module: nn.Module, table: Mapping[str, Family], guesses: Sequence[Family] = ()
) -> BlockStack:
    """The block stack of a transformer.

    Args:
        module: The transformer.
        table: Families by class name.
        guesses: Tried in order on a class that is not in the table; what is found is checked.

    Raises:
        StackNotFound: Nothing that table or guesses name is there, or guessing is not safe.
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
    raise StackNotFound(f"{kind.__name__} has no block list and head that are known")
