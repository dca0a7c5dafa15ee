"""Tiny models run a hundred times faster on one thread than on the two of this machine's CPU."""

import gc
from pathlib import Path

import pytest
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


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Calibrations, and what runs teach, stay in the test."""
    monkeypatch.setenv("MAGCACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
