"""The sampling part of a workflow, run with ComfyUI's own nodes and a tiny model."""

import asyncio
import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import nodes
import torch
from workflows import WIDGETS

from magcache.doctor.tiny import Tiny
from tools.graphs import Graph, Node
from tools.templates import LOADERS, PACKAGE, SAMPLERS, Template, installed

_LORAS = ("LoraLoaderModelOnly", "LoraLoader")
_OURS = "MagCacheTargetSpeed"


@cache
def known() -> dict[str, Template]:
    """The pinned package's templates, by name."""
    return {template.name: template for template in installed()}


def template(name: str) -> dict[str, Any]:
    """A template's workflow."""
    return json.loads((files(PACKAGE) / "templates" / f"{name}.json").read_text("utf-8"))


@cache
def node_classes() -> dict[str, Any]:
    """ComfyUI's own nodes, those of comfy_extras too."""
    asyncio.run(nodes.init_builtin_extra_nodes())
    return nodes.NODE_CLASS_MAPPINGS


class Run:
    """Runs every sampler of a workflow, with what its graph has between loader and sampler.

    Pictures, texts and latents are the tiny model's own; a LoRA is a small random change of one
    weight.

    Args:
        workflow: As it is saved.
        tiny: The model in place of what each loader loads.
        place: What is put in the place of each MagCache node, or behind each loader where there
            is no such node.
    """

    def __init__(self, workflow: dict[str, Any], tiny: Tiny, place: Callable[[Any], Any]) -> None:
        self._tiny, self._place = tiny, place
        self._graph = Graph.of(workflow)
        kinds = {node.kind for node in self._graph.nodes()}
        self._places = (_OURS,) if _OURS in kinds else LOADERS
        self._made: dict[Any, Any] = {}

    def __call__(self) -> list[Any]:
        """The latent that each sampler ends with."""
        samplers = [node for node in self._graph.nodes() if node.kind in SAMPLERS]
        return [self._outputs(node)[0]["samples"] for node in samplers]

    def _outputs(self, node: Node) -> Any:
        key = id(node.data), id(node.graph.user and node.graph.user.data)
        if key not in self._made:
            self._made[key] = self._executed(node)
        return self._made[key]

    def _executed(self, node: Node) -> Any:
        if node.kind in (*LOADERS, _OURS):
            loads = node.kind in LOADERS
            model = self._tiny.build() if loads else self._input(node, "model", "MODEL")
            return (self._place(model) if node.kind in self._places else model,)
        if node.kind in _LORAS:
            return (_with_lora(self._input(node, "model", "MODEL")),)
        kind = node_classes()[node.kind]
        declared = kind.INPUT_TYPES()
        declared = {**declared.get("required", {}), **declared.get("optional", {})}
        widgets = [*_widgets(declared)]
        inputs = {
            name: node.value(name, widgets) if name in widgets else self._input(node, name, told[0])
            for name, told in declared.items()
        }
        inputs = {name: value for name, value in inputs.items() if value is not None}
        if hasattr(kind, "execute") and not hasattr(kind, "FUNCTION_V1"):
            return kind.execute(**inputs).result
        return getattr(kind(), kind.FUNCTION)(**inputs)

    def _latent(self) -> Any:
        """Not quite empty: of those, ComfyUI changes the channels to the large model's."""
        empty = self._tiny.latent()
        return torch.full_like(empty, 1e-3) if isinstance(empty, torch.Tensor) else empty

    def _input(self, node: Node, name: str, kind: str) -> Any:
        source = node.source(name)
        if kind == "CONDITIONING":
            positive, negative = self._tiny.conds()
            return negative if name == "negative" else positive
        if kind == "LATENT":
            before = source and source[0].kind in SAMPLERS
            return self._outputs(source[0])[0] if before else {"samples": self._latent()}
        return self._outputs(source[0])[source[1]] if source else None


def _widgets(declared: dict[str, Any]) -> Any:
    """Names of a node's widgets in the order of their saved values."""
    for name, told in declared.items():
        options = told[1] if len(told) > 1 else {}
        if isinstance(told[0], list) or told[0] in WIDGETS:
            yield name
            if options.get("control_after_generate") or name in ("seed", "noise_seed"):
                yield ""


def _with_lora(model: Any) -> Any:
    patched = model.clone()
    name, weight = next((n, w) for n, w in model.model.named_parameters() if w.ndim == 2)
    change = 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    patched.add_patches({name: ("diff", (change,))}, 1.0)
    return patched
