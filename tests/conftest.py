"""Tiny models run a hundred times faster on one thread than on the two of this machine's CPU."""

import gc

import torch
from hypothesis import settings

torch.set_num_threads(1)
# The same examples in every run, and no failure for a slow machine.
settings.register_profile("magcache", derandomize=True, deadline=None)
settings.load_profile("magcache")


def pytest_collection_finish() -> None:
    """What imports leave behind lasts as long as the run: collections need not look at it again."""
    gc.collect()
    gc.freeze()
