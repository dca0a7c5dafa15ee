"""A first run: from a prior without the model that is sampled, and nothing learned of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from magcache.curves import Learned, Notebook, prior


@contextmanager
def first_run(model: str) -> Iterator[None]:
    """Has samplings begin as they do on a model that was never seen.

    Args:
        model: One of the prior's members, to leave out.
    """
    others = {name: grams for name, grams in prior.members().items() if name != model}
    with (
        patch.object(prior, "members", lambda: others),
        patch.object(Notebook, "read", lambda _: Learned()),
        patch.object(Notebook, "add", lambda *_: None),
    ):
        yield
