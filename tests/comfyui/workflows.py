"""Workflows as ComfyUI's page saves them, read by the rules of node definitions."""

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "example_workflows"
NOTES = ("Note", "MarkdownNote")  # the page's own, no server knows them
MUTED = 2
TITLE = 30  # pixels above a node's place
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
Json = dict[str, Any]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Widget:
    """A widget of a node, with its value in a workflow.

    Attributes:
        name: Its name.
        type: "INT", "COMBO" and so on.
        options: What its definition says of it.
        value: Its value.
    """

    name: str
    type: str
    options: Json
    value: Any

    @property
    def choices(self) -> list[Any]:
        """What a COMBO offers."""
        offered = self.options.get("options", [])
        return [each["key"] if isinstance(each, dict) else each for each in offered]


class Workflow:
    """A workflow and the node definitions of a server, as /object_info gives them."""

    def __init__(self, path: Path, definitions: Json) -> None:
        self.json: Json = json.loads(path.read_text(encoding="utf-8"))
        self.definitions = definitions
        self.nodes: list[Json] = [n for n in self.json["nodes"] if n["type"] not in NOTES]
        self.notes: list[Json] = [n for n in self.json["nodes"] if n["type"] in NOTES]
        self.links: dict[int, list[Any]] = {link[0]: link for link in self.json["links"]}

    def node(self, number: int) -> Json:
        (found,) = [node for node in self.nodes if node["id"] == number]
        return found

    def inputs(self, node: Json) -> list[tuple[str, str, Json, bool]]:
        """Name, type, options of a node's inputs, and whether they are required; in order."""
        found = []
        for part in ("required", "optional"):
            for name, spec in self.definitions[node["type"]]["input"].get(part, {}).items():
                options = dict(spec[1] if len(spec) > 1 else {})
                kind = options.get("widgetType", spec[0])  # where a socket takes several types
                if isinstance(kind, list):
                    kind, options["options"] = "COMBO", kind
                found.append((name, kind, options, part == "required"))
        return found

    def widgets(self, node: Json) -> list[Widget]:
        """A node's widgets with their values; those that a newer version has added are left out.

        Raises:
            ValueError: There are values that no widget takes.
        """
        values = list(node["widgets_values"])
        found = []
        for name, kind, options, _ in self.inputs(node):
            if kind in WIDGETS and values:
                found.append(Widget(name, kind, options, values.pop(0)))
                if options.get("control_after_generate") or options.get("image_upload"):
                    found.append(Widget(f"after {name}", "", {}, values.pop(0)))
        if values:
            raise ValueError(f"no widget of {node['type']} takes {values}")
        return found

    def as_prompt(self) -> Json:
        """The graph as the page queues it."""
        prompt = {}
        for node in self.nodes:
            if node["mode"] != MUTED:
                inputs = {w.name: w.value for w in self.widgets(node) if w.type}
                for socket in node["inputs"]:
                    if socket["link"] is not None:
                        _, source, slot, *_ = self.links[socket["link"]]
                        inputs[socket["name"]] = [str(source), slot]
                prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
        return prompt


def box(node: Json) -> Box:
    """Left, top, right and bottom of a saved node, its title included."""
    (x, y), (width, height) = node["pos"], node["size"]
    height = 0 if node["flags"].get("collapsed") else height
    return x, y - TITLE, x + width, y + height


def overlapping(boxes: dict[str, Box]) -> list[tuple[str, str]]:
    """Which boxes share an area."""
    return [
        (one, other)
        for (one, a), (other, b) in combinations(boxes.items(), 2)
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]


def inside(inner: Box, outer: Box) -> bool:
    return (
        outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2]
        and inner[3] <= outer[3]
    )  # fmt: skip
