"""Simulates a first run: the prior excludes the sampled model, and nothing has been learned."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from magcache.curves import Learned, Notebook, prior

MADE_FROM = {"emoji-turbo": "emoji"}
"""A distilled model's teacher, which is too much like it to be in its prior."""


def unseen(model: str) -> prior.Members:
    """The prior's members, without a model and its teacher."""
    left_out = (model, MADE_FROM.get(model))
    return {name: grams for name, grams in prior.members().items() if name not in left_out}


@contextmanager
def first_run(model: str) -> Iterator[None]:
    """Within this context, runs start as with a model that was never seen.

    Args:
        model: The sampled model, by its folder's name.
    """
    others = unseen(model)
    with (
        patch.object(prior, "members", lambda: others),
        patch.object(Notebook, "read", lambda _: Learned()),
        patch.object(Notebook, "add", lambda *_: None),
    ):
        yield
