"""Detects other packs with the same node ids: ComfyUI keeps the node that it loads last."""

import logging
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

log = logging.getLogger("magcache")
_OURS = ".hosts.comfyui."


def watch(own: Mapping[str, type]) -> None:
    """Warns of such packs when ComfyUI starts, whichever is loaded first.

    Packs loaded earlier are in ComfyUI's table now; packs loaded later are in it once the server
    starts, when aiohttp calls back.

    Args:
        own: This pack's nodes, by id.
    """
    table: Mapping[str, type] = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {})
    before = [(name, table[name]) for name in own if name in table]
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    startup = getattr(getattr(getattr(server, "instance", None), "app", None), "on_startup", None)

    async def tell(_app: Any) -> None:
        after = [(name, table[name]) for name in own if table.get(name, own[name]) is not own[name]]
        _warn(own, [*before, *after], in_force=table)

    if startup is not None and not startup.frozen:
        startup.append(tell)


def _warn(
    own: Mapping[str, type], others: Iterable[tuple[str, type]], in_force: Mapping[str, type]
) -> None:
    """Logs one warning for each pack that the other nodes belong to."""
    packs: dict[str, dict[str, type]] = {}
    for name, node in others:
        packs.setdefault(folder_of(node), {})[name] = node
    for folder, nodes in packs.items():
        name, node = next(iter(nodes.items()))
        theirs, ours = version_of(node), version_of(own[name])
        older = folder if in_numbers(theirs) < in_numbers(ours) else folder_of(own[name])
        log.warning(
            "MagCache: %s%s and %s (MagCache %s) register the same node ids (%s): ComfyUI uses "
            "the nodes of %s, which it loaded last. Rename the folder of %s to end in .disabled, "
            "then restart ComfyUI",
            folder,
            f" (MagCache {theirs})" if theirs else "",
            folder_of(own[name]),
            ours,
            ", ".join(nodes),
            folder_of(in_force.get(name, own[name])),
            f"the older one, {older}," if theirs and theirs != ours else "one of them",
        )


def folder_of(node: type) -> str:
    """The pack of a registered node, as "custom_nodes/NAME"."""
    place = getattr(node, "RELATIVE_PYTHON_MODULE", node.__module__)
    return place.replace("custom_nodes.", "custom_nodes/", 1)


def version_of(node: type) -> str:
    """Version of the MagCache pack that a node belongs to; "" for other packs."""
    package = sys.modules.get(node.__module__.partition(_OURS)[0])
    ours = _OURS in node.__module__
    return getattr(package, "__version__", "") if ours else ""


def in_numbers(version: str) -> list[int]:
    """The numbers of a version, for comparing versions."""
    return [int(number) for number in re.findall(r"\d+", version)]
