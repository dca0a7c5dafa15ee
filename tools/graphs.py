"""Reads workflows as ComfyUI's page saves them: nodes, subgraphs, and the origin of values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_INSIDE = -10  # id of a subgraph's inputs, as seen from inside
_MUTED, _BYPASSED = 2, 4  # modes of nodes
_WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        "add_noise", "seed", "", "steps", "cfg", "sampler_name", "scheduler", "start_at_step",
        "end_at_step", "return_with_leftover_noise",
    ),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "SDTurboScheduler": ("steps", "denoise"),
    **dict.fromkeys(
        ("Flux2Scheduler", "LTXVScheduler", "Ideogram4Scheduler", "BetaSamplingScheduler"),
        ("steps",),
    ),
    "KSamplerSelect": ("sampler_name",),
    "ComfySwitchNode": ("switch",),
    "SplitSigmas": ("step",),
    "ManualSigmas": ("sigmas",),
}  # fmt: skip
"""Names of a node's widgets in order, as far as they are needed."""


@dataclass(frozen=True)
class Graph:
    """A workflow, or one use of a subgraph in it.

    Attributes:
        data: The saved workflow or subgraph.
        subgraphs: All subgraphs of the workflow, by id.
        user: The node that uses the subgraph.
    """

    data: Mapping[str, Any]
    subgraphs: Mapping[str, Mapping[str, Any]]
    user: "Node | None" = None
    _links: dict[int, tuple[int, int]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for link in self.data.get("links") or []:
            names = ("id", "origin_id", "origin_slot")  # a workflow's links are lists
            told = link if isinstance(link, dict) else dict(zip(names, link, strict=False))
            self._links[told["id"]] = told["origin_id"], told["origin_slot"]

    @classmethod
    def of(cls, workflow: Mapping[str, Any]) -> "Graph":
        """A whole workflow."""
        subgraphs = workflow.get("definitions", {}).get("subgraphs", [])
        return cls(workflow, {each["id"]: each for each in subgraphs})

    def nodes(self) -> Iterator["Node"]:
        """All nodes that run; those in subgraphs once per use."""
        for data in self.data["nodes"]:
            node = Node(data, self)
            if node.data.get("mode") in (_MUTED, _BYPASSED):
                continue
            if inside := node.inside:
                yield from inside.nodes()
            else:
                yield node

    def origin(self, link: int) -> "tuple[Node, int] | None":
        """The node and output that a link starts at; None for a widget of `user`."""
        identity, slot = self._links[link]
        if identity == _INSIDE:
            assert self.user is not None
            return self.user.source(self.data["inputs"][slot]["name"])
        found = next(n for n in self.data["nodes"] if n["id"] == identity)
        node = Node(found, self)
        if inside := node.inside:
            return inside.origin(inside.data["outputs"][slot]["linkIds"][0])
        return node, slot

    def promoted(self, link: int | None) -> Any:
        """The value that the use of this subgraph gives to a widget, or None."""
        identity, slot = self._links.get(link or 0, (0, 0))
        if identity != _INSIDE or self.user is None:
            return None
        names = [i["name"] for i in self.user._inputs() if "widget" in i]
        held = self.user.data.get("widgets_values") or []
        set_to = dict(zip(names, held, strict=True)) if len(names) == len(held) else {}
        return set_to.get(self.data["inputs"][slot]["name"])


@dataclass(frozen=True)
class Node:
    """A node of a graph."""

    data: Mapping[str, Any]
    graph: Graph

    @property
    def kind(self) -> str:
        return self.data["type"]

    @property
    def inside(self) -> Graph | None:
        """The subgraph that the node stands for, or None."""
        found = self.graph.subgraphs.get(self.kind)
        return Graph(found, self.graph.subgraphs, self) if found else None

    def source(self, name: str) -> tuple["Node", int] | None:
        """The node and output that feed an input, through switches, reroutes and bypassed nodes."""
        link = self._link(name)
        origin = self.graph.origin(link) if link is not None else None
        while origin and (passed := origin[0]._passed(origin[1])) is not None:
            origin = origin[0].source(passed)
        return origin

    def value(self, name: str, names: Sequence[str] = ()) -> Any:
        """The value of a widget, or of the primitive that it is linked to.

        If the value is computed while the workflow runs, this is the one that was saved.

        Args:
            name: Name of the widget.
            names: Names of all widgets of the node in order, if the caller knows them.
        """
        source = self.source(name)
        if source and source[0].kind.startswith("Primitive"):
            return source[0].value("value")
        promoted = self.graph.promoted(self._link(name))
        if promoted is not None:
            return promoted
        if not names:
            primitive = self.kind.startswith("Primitive")
            names = ("value",) if primitive else _WIDGETS.get(self.kind, ())
        return dict(zip(names, self.data.get("widgets_values") or [], strict=False)).get(name)

    def first_of(self, kind: str) -> str:
        """The name of the first input of a type, or ""."""
        return next((i["name"] for i in self._inputs() if i["type"] == kind), "")

    def _link(self, name: str) -> int | None:
        return next((i.get("link") for i in self._inputs() if i["name"] == name), None)

    def _passed(self, slot: int) -> str | None:
        """The input that is passed unchanged to an output, or None."""
        names = [each["name"] for each in self._inputs()]
        if self.kind == "Reroute":
            return names[0]
        if self.kind == "ComfySwitchNode":
            return "on_true" if self.value("switch") else "on_false"
        if self.data.get("mode") == _BYPASSED:
            wanted = self.data["outputs"][slot]["type"]
            return next((i["name"] for i in self._inputs() if i["type"] == wanted), None)
        return None

    def _inputs(self) -> list[Mapping[str, Any]]:
        return self.data.get("inputs") or []
