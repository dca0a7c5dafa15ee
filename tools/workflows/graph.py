"""A workflow as ComfyUI's page saves it: nodes, links, groups, laid out from left to right."""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .definitions import Definitions, Input
from .files import File

# Pixels; a node's title is above its place. The page fits a template into three quarters of the
# window, so large graphs become too small to read.
GAP, PADDING, TITLE, GROUP_TITLE = 20, 15, 30, 40
COLUMN = 260
_OPENS_AT = 0.8, (90, 110)  # a readable scale, and an offset below the page's own bars
_TELLING = ("MagCache", "MagCacheCalibration", "MagCacheTargetSpeed")
_TELLS = 80  # height of the text that these nodes show during a run
Json = dict[str, Any]

BLUE, GREEN, YELLOW, GREY = "#3f789e", "#8a8", "#b58b2a", "#999"
OURS = {"color": "#233", "bgcolor": "#355"}
NOTE = {"color": "#432", "bgcolor": "#000"}


@dataclass
class Node:
    """A node of a workflow; `node[0]` is its first output.

    Attributes:
        size: Width and height in pixels.
        place: Its top left corner, set by the layout.
        collapsed: Whether only its title is shown.
    """

    number: int
    kind: str
    inputs: list[Json]
    outputs: list[Json]
    values: list[Any]
    size: tuple[int, int]
    looks: Json = field(default_factory=dict)
    properties: Json = field(default_factory=dict)
    place: tuple[int, int] = (0, 0)
    collapsed: bool = False

    @property
    def height(self) -> int:
        """Height including the title."""
        return TITLE if self.collapsed else TITLE + self.size[1]

    def __getitem__(self, slot: int) -> "Output":
        return Output(self, slot)

    def as_json(self, order: int) -> Json:
        flags = {"collapsed": True} if self.collapsed else {}
        return {
            "id": self.number, "type": self.kind, "pos": list(self.place),
            "size": list(self.size), "flags": flags, "order": order, "mode": 0,
            "inputs": self.inputs, "outputs": self.outputs,
            "properties": self.properties, "widgets_values": self.values, **self.looks,
        }  # fmt: skip


@dataclass(frozen=True)
class Output:
    """An output of a node."""

    node: Node
    slot: int


@dataclass(frozen=True)
class Group:
    """A frame with a title around columns of nodes."""

    title: str
    colour: str
    columns: Sequence[Sequence[Node]]

    @property
    def size(self) -> tuple[int, int]:
        """The width and height needed by its nodes."""
        width = sum(_width(column) for column in self.columns)
        width += GAP * (len(self.columns) - 1) + 2 * PADDING
        height = max(sum(n.height + GAP for n in c) for c in self.columns) - GAP
        return width, GROUP_TITLE + height + PADDING

    def put(self, left: int, top: int, width: int) -> None:
        """Places all nodes; the last column gets the extra width of a wider frame."""
        x = left + PADDING
        for column in self.columns:
            y = top + GROUP_TITLE
            wide = _width(column)
            if column is self.columns[-1]:
                wide += width - self.size[0]
            for node in column:
                node.place = (x, y + TITLE)
                y += node.height + GAP
            for node in column:
                node.size = (wide, node.size[1])
            x += wide + GAP


class Workflow:
    """Builds a workflow from node definitions.

    Attributes:
        name: Name of its file.
        needs: A note on the ComfyUI version that it needs, "" if any will do.
        files: The files that its nodes need, in order.
    """

    def __init__(self, name: str, definitions: Definitions, needs: str = "") -> None:
        self.name = name
        self.needs = needs
        self.files: list[File] = []
        self.definitions = definitions
        self._nodes: list[Node] = []
        self._links: list[list[Any]] = []
        self._groups: list[Json] = []

    def node(
        self, kind: str, title: str = "", control: str = "fixed", collapsed: bool = False,
        wide: int = COLUMN, high: int = 0, **values: Any,
    ) -> Node:  # fmt: skip
        """Adds a node.

        Args:
            kind: Its class.
            title: Its title, if not the default one.
            control: Value of its seed's "control after generate".
            collapsed: Whether to show only its title.
            wide: Width in pixels.
            high: Minimum height, for pictures and texts.
            values: Values of widgets, and `Output`s for sockets. Other widgets keep their
                defaults.

        Raises:
            ValueError: The node has no such input, does not accept a value, or lacks one.
        """
        inputs = self.definitions.inputs(kind)
        if unknown := set(values) - {each.name for each in inputs}:
            raise ValueError(f"{kind} has no input {unknown}, but {[i.name for i in inputs]}")
        outputs = [
            {"name": name, "type": type_, "links": []}
            for name, type_ in self.definitions.outputs(kind)
        ]
        node = Node(len(self._nodes) + 1, kind, [], outputs, [], (wide, 0))
        node.properties = {"Node name for S&R": kind}
        node.looks = {"title": title} if title else {}
        node.collapsed = collapsed
        if kind.startswith("MagCache") or kind == "CompileModel":
            node.looks |= OURS
        for each in inputs:
            self._connect(node, each, values.get(each.name))
            if each.is_widget:
                node.values += _widget_values(kind, each, values.get(each.name), control)
        if files := [value for value in values.values() if isinstance(value, File)]:
            node.properties["models"] = [
                {"name": file.name, "url": file.address, "directory": file.folder} for file in files
            ]
            self.files += files
        tells = _TELLS if kind in _TELLING else 0
        node.size = (wide, max(high, _height(node, inputs) + tells))
        self._nodes.append(node)
        return node

    def note(self, title: str, text: str, wide: int = 300) -> Node:
        """Adds a Markdown note."""
        shown = re.sub(r"\]\(\S+\)", "]", text)  # a link shows only its name
        high = sum(_line_height(line, wide - 30) for line in shown.splitlines())
        node = Node(len(self._nodes) + 1, "MarkdownNote", [], [], [text], (wide, 40 + high))
        node.looks = {"title": title, **NOTE}
        self._nodes.append(node)
        return node

    def lay_out(self, *columns: Sequence[Group]) -> None:
        """Lays out columns of groups from left to right."""
        left = 0
        for column in columns:
            top, width = 0, max(group.size[0] for group in column)
            for group in column:
                group.put(left, top, width)
                self._groups.append({
                    "id": len(self._groups) + 1, "title": group.title, "color": group.colour,
                    "bounding": [left, top, width, group.size[1]], "font_size": 24, "flags": {},
                })  # fmt: skip
                top += group.size[1] + GAP
            left += width + GAP

    def as_json(self) -> Json:
        """The workflow in the format of a saved file."""
        scale, (x, y) = _OPENS_AT
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"magcache/{self.name}")),
            "revision": 0,
            "last_node_id": len(self._nodes),
            "last_link_id": len(self._links),
            "nodes": [node.as_json(order) for order, node in enumerate(self._nodes)],
            "links": self._links,
            "groups": self._groups,
            "config": {},
            "extra": {"ds": {"scale": scale, "offset": [x / scale, y / scale]}},
            "version": 0.4,
        }

    def _connect(self, node: Node, each: Input, value: Any) -> None:
        """Adds the socket of an input, if it has one."""
        if each.is_widget and not isinstance(value, Output):
            return
        if value is None and each.required:
            raise ValueError(f"{node.kind} needs {each.name}")
        if value is not None and not isinstance(value, Output):
            raise ValueError(f"{node.kind}: {each.name} is a socket, not {value!r}")
        socket: Json = {"name": each.name, "type": each.type, "link": None}
        if each.is_widget:
            socket["widget"] = {"name": each.name}
        if value is not None:
            source = value.node.outputs[value.slot]
            if each.type not in (source["type"], "*"):
                raise ValueError(f"{node.kind}: {each.name} takes no {source['type']}")
            number, kind = len(self._links) + 1, source["type"]
            ends = (value.node.number, value.slot, node.number, len(node.inputs))
            self._links.append([number, *ends, kind])
            socket["link"] = number
            source["links"].append(number)
        node.inputs.append(socket)


def _widget_values(kind: str, each: Input, value: Any, control: str) -> list[Any]:
    if value is None or isinstance(value, Output):
        value = each.default
    elif isinstance(value, File):
        value = value.name
    elif each.choices and value not in each.choices and not each.uploads:
        raise ValueError(f"{kind}: {each.name} is one of {each.choices}, not {value!r}")
    after = [control] if each.has_control else ["image"] if each.uploads else []
    return [value, *after]


def _width(column: Sequence[Node]) -> int:
    return max(node.size[0] for node in column)


def _line_height(line: str, wide: int) -> int:
    if line.startswith("#"):
        return 30
    return 16 * (1 + len(line) * 6 // wide) if line else 8


def _height(node: Node, inputs: Sequence[Input]) -> int:
    sockets = [each for each in node.inputs if "widget" not in each]
    texts = 100 * sum(each.lines for each in inputs)
    return 16 + 20 * max(len(sockets), len(node.outputs)) + 24 * len(node.values) + texts
