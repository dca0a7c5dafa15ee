"""Writes locales/en from the nodes' texts, in the format that ComfyUI's page reads.

    PYTHONPATH=path/to/ComfyUI python -m tools.locales

locales/zh is translated by hand. tests/comfyui/test_locales.py compares both with the nodes.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "locales"
Json = dict[str, Any]


def definitions() -> Json:
    """The content of nodeDefs.json for "en", by node id."""
    from magcache.hosts.comfyui.nodes import NODE_CLASS_MAPPINGS as NODES
    from magcache.hosts.comfyui.nodes import NODE_DISPLAY_NAME_MAPPINGS as TITLES

    return {name: _definition(node, TITLES[name]) for name, node in NODES.items()}


def main_file() -> Json:
    """The content of main.json for "en": the names of the menus."""
    from magcache.hosts.comfyui.nodes import NODE_CLASS_MAPPINGS as NODES

    names = {name for node in NODES.values() for name in node.CATEGORY.split("/")}
    return {"nodeCategories": {name: name for name in sorted(names)}}


def _definition(node: Any, title: str) -> Json:
    parts = node.INPUT_TYPES()
    inputs = {**parts["required"], **parts.get("optional", {})}
    return {
        "display_name": title,
        "description": node.DESCRIPTION,
        "inputs": {
            name: {"name": name, "tooltip": options["tooltip"]}
            for name, (_, options) in inputs.items()
        },
        "outputs": {str(at): output for at, output in enumerate(_outputs(node))},
    }


def _outputs(node: Any) -> list[Json]:
    """The outputs. The page translates an output's name only if it differs from its type."""
    names = getattr(node, "RETURN_NAMES", node.RETURN_TYPES)
    found = zip(names, node.RETURN_TYPES, node.OUTPUT_TOOLTIPS, strict=True)
    return [
        {"tooltip": tooltip} if name == kind else {"name": name, "tooltip": tooltip}
        for name, kind, tooltip in found
    ]


def main() -> None:
    (FOLDER / "en").mkdir(parents=True, exist_ok=True)
    for name, content in (("nodeDefs", definitions()), ("main", main_file())):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (FOLDER / "en" / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
