"""Finds what other packs of a running ComfyUI do that may conflict with MagCache."""

import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..hosts.comfyui.neighbours import version_of

_REPLACEABLE = ("forward", "apply_model")


def file_of(node: type) -> Path:
    """The file that defines a node's class."""
    return Path(getattr(sys.modules.get(node.__module__), "__file__", None) or "").absolute()


def pack_of(path: Path, packs: Iterable[Mapping[str, Any]]) -> str:
    """Name of the custom node that a file belongs to, or the file if it belongs to none."""
    return next((pack["name"] for pack in packs if _holds(pack["path"], path)), str(path))


def _holds(place: str, path: Path) -> bool:
    folder = Path(place).absolute()
    return path == folder or folder in path.parents


def suspects(
    error: BaseException | None,
    model: Any,
    replaced: Iterable[Mapping[str, Any]],
    packs: Sequence[Mapping[str, Any]],
) -> tuple[str, ...]:
    """The custom nodes that may be the cause of a failing model.

    Args:
        error: The exception that it fails with, if any.
        model: The ModelPatcher; None if it could not be built.
        replaced: The result of `replaced_forwards`.
        packs: The custom nodes.

    Returns:
        The one that raised the error, otherwise those that replace functions of the model.
    """
    if error is not None and (raised := _raised_by(error, packs)):
        return (raised,)
    modules = () if model is None else model.model.modules()
    kinds = {kind.__name__ for module in modules for kind in type(module).__mro__}
    return tuple(sorted({each["pack"] for each in replaced if not kinds or each["class"] in kinds}))


def _raised_by(error: BaseException, packs: Sequence[Mapping[str, Any]]) -> str:
    """The pack whose code raised the error; "" if it was MagCache's or ComfyUI's."""
    own = str(Path(__file__).parents[1])
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).absolute()
        for pack in packs:
            if _holds(pack["path"], path):
                return "" if pack["ours"] else pack["name"]
        if _holds(own, path):
            return ""
    return ""


def double_ids(
    own: Mapping[str, type], registered: Iterable[tuple[str, type]], packs: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """MagCache's node ids that another pack also registers.

    Args:
        own: MagCache's nodes.
        registered: Every registration, in order; the last one of an id is the one in use.
        packs: The custom nodes, with name and path.

    Returns:
        For each such id: the other packs that register it, the pack whose node is in use, and the
        versions of those packs that are also a MagCache.
    """
    others: dict[str, list[type]] = {}
    last: dict[str, type] = {}
    for name, node in registered:
        if name in own:
            last[name] = node
            if node is not own[name]:
                others.setdefault(name, []).append(node)
    return [
        {
            "id": name,
            "packs": sorted({pack_of(file_of(node), packs) for node in nodes}),
            "in_force": pack_of(file_of(last[name]), packs),
            "versions": {
                pack_of(file_of(node), packs): version
                for node in nodes
                if (version := version_of(node))
            },
        }
        for name, nodes in others.items()
    ]


def replaced_forwards(comfyui: Path, packs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Functions of ComfyUI's models that are defined outside ComfyUI's own files.

    Args:
        comfyui: Its folder.
        packs: The custom nodes, with name and path.
    """
    own = (comfyui / "comfy").resolve()
    found = []
    for kind in _model_classes():
        for name, function in vars(kind).items():
            if not name.lstrip("_").startswith(_REPLACEABLE):
                continue
            code = getattr(inspect.unwrap(function), "__code__", None)
            path = Path(code.co_filename).absolute() if code else None
            if path and path.is_file() and own not in path.resolve().parents:
                where = pack_of(path, packs)
                found.append({"class": kind.__name__, "function": name, "pack": where})
    return sorted(found, key=lambda each: (each["pack"], each["class"], each["function"]))


def _model_classes() -> Iterator[type]:
    """Every class of networks, of their parts, and of the models around them."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("comfy.ldm.", "comfy.model_base")):
            classes = filter(inspect.isclass, list(vars(module).values()))
            own = (kind for kind in classes if kind.__module__ == name)
            yield from (kind for kind in own if issubclass(kind, nn.Module))
