"""A first run: from a prior without the model that is sampled, and nothing learned of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from magcache.curves import Learned, Notebook, prior

MADE_FROM = {"emoji-turbo": "emoji"}
"""A distilled model's teacher, which is too much like it to be in its prior."""


def unseen(model: str) -> prior.Members:
    """The prior's members without a model and its teacher."""
    left_out = (model, MADE_FROM.get(model))
    return {name: grams for name, grams in prior.members().items() if name not in left_out}


@contextmanager
def first_run(model: str) -> Iterator[None]:
    """Has samplings begin as they do on a model that was never seen.

    Args:
        model: What is sampled, by its folder's name.
    """
    others = unseen(model)
    with (
        patch.object(prior, "members", lambda: others),
        patch.object(Notebook, "read", lambda _: Learned()),
        patch.object(Notebook, "add", lambda *_: None),
    ):
        yield
