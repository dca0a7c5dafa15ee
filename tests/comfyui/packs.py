"""Other people's node packs, loaded as ComfyUI loads them."""

import importlib.util
import os
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@cache
def load(variable: str) -> types.ModuleType | str:
    """The pack whose checkout an environment variable names, or why it cannot be had."""
    folder = os.environ.get(variable)
    if not folder:
        return f"{variable} names no checkout of the pack"
    path = Path(folder).expanduser()
    name = variable.lower()
    place = importlib.util.spec_from_file_location(
        name, path / "__init__.py", submodule_search_locations=[str(path)]
    )
    if place is None or place.loader is None or not (path / "__init__.py").is_file():
        return f"{variable}={folder} is no node pack"
    pack = sys.modules[name] = importlib.util.module_from_spec(place)
    stand_ins = _Server(), _Device()
    try:
        for stand_in in stand_ins:
            stand_in.__enter__()
        place.loader.exec_module(pack)
    except ImportError as error:
        del sys.modules[name]
        return f"{sys.executable} cannot run {path.name}: {error}"
    finally:
        for stand_in in reversed(stand_ins):
            stand_in.__exit__(None, None, None)
    return pack


def needed(variable: str) -> Any:
    """The pack; skips the module without it."""
    pack = load(variable)
    if isinstance(pack, str):
        pytest.skip(pack, allow_module_level=True)
    return pack


class _Server:
    """A server without a client, which packs look for as they are imported."""

    def __enter__(self) -> None:
        self._kept = sys.modules.get("server")
        instance = types.SimpleNamespace(client_id=None, send_sync=lambda *_, **__: None)
        server = types.ModuleType("server")
        vars(server)["PromptServer"] = types.SimpleNamespace(instance=instance)
        sys.modules["server"] = server

    def __exit__(self, *_: object) -> None:
        del sys.modules["server"]
        if self._kept is not None:
            sys.modules["server"] = self._kept


class _Device:
    """FramePackWrapper asks for the number of the GPU as it is imported."""

    def __enter__(self) -> None:
        import torch

        self._kept = torch.cuda.current_device
        torch.cuda.current_device = lambda: 0

    def __exit__(self, *_: object) -> None:
        import torch

        torch.cuda.current_device = self._kept
