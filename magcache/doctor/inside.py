"""The part of `magcache doctor` that runs inside ComfyUI, as a script in ComfyUI's Python.

It starts ComfyUI like its main.py, including custom nodes, and stops before the server opens a
port. Only the standard library may be imported before ComfyUI, because ComfyUI and its packs set
things up that torch reads on import. The findings go to a file as lines of JSON, because packs
may print anything.
"""

import importlib
import importlib.util
import json
import logging
import os
import platform
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

_HERE = Path(__file__).resolve().parent
_STARTING = "starting ComfyUI"
_NODES = ("magcache", "hosts", "comfyui", "nodes")  # a folder that only MagCache has


class Channel:
    """Sends findings, one event per line."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def send(self, event: str, **data: Any) -> None:
        self._file.write(json.dumps({"event": event, **data}) + "\n")
        self._file.flush()

    def step(self, text: str) -> None:
        self.send("step", text=text)

    def end(self, event: str, **data: Any) -> NoReturn:
        """Sends a last event and ends the process, even if other threads are still running."""
        self.send(event, **data)
        sys.stderr.flush()
        os._exit(0)


class Registrations(dict):
    """ComfyUI's table of nodes, which also remembers replaced entries.

    Attributes:
        all: Id and class of every registration, in order.
    """

    def __init__(self, mappings: dict[str, type]) -> None:
        super().__init__(mappings)
        self.all: list[tuple[str, type]] = list(mappings.items())

    def __setitem__(self, name: str, node: type) -> None:
        self.all.append((name, node))
        super().__setitem__(name, node)

    def update(self, *others: Any, **more: Any) -> None:
        for name, node in dict(*others, **more).items():
            self[name] = node


def main() -> None:
    """Runs the checks that the JSON file named on the command line asks for; see `session`."""
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    channel = Channel(asked["events"])
    # Remove this file's folder: its modules must not hide those of ComfyUI and the packs.
    sys.path[:] = [asked["comfyui"], *(each for each in sys.path if Path(each).resolve() != _HERE)]
    sys.argv = ["main.py", *asked["arguments"]]
    try:
        registrations, packs = _start(channel, Path(asked["package"]))
        check = importlib.import_module("magcache.doctor.families").check_all
        channel.step("looking at what was loaded")
        check(channel, registrations, packs, asked)
        channel.end("done")
    except BaseException as error:  # a pack may call sys.exit
        traceback.print_exc()
        channel.end("error", text=_said(error))


def _start(channel: Channel, package: Path) -> tuple[Registrations, list[dict[str, Any]]]:
    """Starts ComfyUI; returns its registered nodes and the result of loading each custom node."""
    channel.send("found", versions={"Python": platform.python_version()})
    channel.step(_STARTING)
    comfyui = importlib.import_module("main")  # loads torch, after the packs' own preparations
    import nodes
    import torch

    version = importlib.import_module("comfyui_version").__version__
    channel.send("found", versions={"ComfyUI": version, "torch": str(torch.__version__)})
    _own_package(package)
    try:
        importlib.import_module("magcache.hosts.comfyui.host").check_version()
    except RuntimeError as too_old:
        channel.end("refused", text=str(too_old))
    registrations = Registrations(nodes.NODE_CLASS_MAPPINGS)
    nodes.NODE_CLASS_MAPPINGS = registrations
    packs = _watch_loading(nodes, channel)
    comfyui.start_comfyui()
    channel.send("found", custom_nodes=packs)
    return registrations, packs


def _watch_loading(nodes: Any, channel: Channel) -> list[dict[str, Any]]:
    """Reports each custom node as it is loaded, and adds it to the returned list."""
    load, packs, warnings = nodes.load_custom_node, [], []
    handler = logging.Handler(logging.WARNING)  # ComfyUI logs why a pack cannot be loaded
    handler.emit = lambda record: warnings.append(record.getMessage().strip())
    logging.getLogger().addHandler(handler)

    async def load_custom_node(module_path: str, *args: Any, **kwargs: Any) -> bool:
        if kwargs.get("module_parent", "custom_nodes") != "custom_nodes":
            return await load(module_path, *args, **kwargs)
        path = Path(module_path)
        pack = {"name": path.name, "path": str(path), "ours": path.joinpath(*_NODES).is_dir()}
        channel.step(f"loading the custom node {path.name}")
        warnings.clear()
        loaded = await load(module_path, *args, **kwargs)
        channel.send("back", text=_STARTING)  # later failures are not this pack's fault
        own = [warning for warning in warnings if str(module_path) in warning]
        reason = own[-1].rpartition("module for custom nodes: ")[2] if own and not loaded else ""
        packs.append({**pack, "loaded": loaded, "reason": reason})
        return loaded

    nodes.load_custom_node = load_custom_node
    return packs


def _said(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"ComfyUI or a custom node called sys.exit({error.code!r})"
    return f"{type(error).__name__}: {error}"


def _own_package(folder: Path) -> None:
    """Makes the command's own `magcache` importable, without anything next to it."""
    spec = importlib.util.spec_from_file_location(
        "magcache", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["magcache"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    main()
