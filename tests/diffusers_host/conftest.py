"""What reports leave out: the runs themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from magcache.run import Run


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that a test makes, in the order in which they begin."""
    made: list[Run] = []
    make = Run.__init__

    def init(self: Run, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(Run, "__init__", init)
    return made


@pytest.fixture(scope="session")
def saved_wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pipeline."""
    from saved import save_wan

    return save_wan(tmp_path_factory.mktemp("wan"))
