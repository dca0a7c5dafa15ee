"""What docs/templates.md says of ComfyUI's own templates."""

from typing import Any

import pytest

from tools.graphs import Graph
from tools.templates import PAGE, Sampling, installed, samplings, section

LOADER = {"id": 1, "type": "UNETLoader", "widgets_values": ["model.safetensors", "default"]}


def linked(name: str, link: int, kind: str = "MODEL") -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link}


def sampler(*inputs: dict[str, Any], steps: int = 20, denoise: float = 1.0) -> dict[str, Any]:
    held = [0, "fixed", steps, 1, "euler", "simple", denoise]
    return {"id": 9, "type": "KSampler", "inputs": [*inputs], "widgets_values": held}


def of(*nodes: dict[str, Any], links: list[Any], **more: Any) -> list[Sampling]:
    return [*samplings({"nodes": [*nodes], "links": links, **more})]


def test_the_page_is_what_the_tool_makes_of_the_version_that_comfyui_pins() -> None:
    pytest.importorskip("comfyui_workflow_templates_json", reason="needs the dev extra")
    assert section("0.1.50", installed()) in PAGE.read_text("utf-8")


def test_a_part_of_a_trajectory_is_read_from_the_denoise() -> None:
    found = of(LOADER, sampler(linked("model", 1), steps=8, denoise=0.5), links=[[1, 1, 0, 9, 0]])
    assert found == [Sampling(steps=8, whole=16, sampler="euler", lora=False)]


@pytest.mark.parametrize(("mode", "lora"), [(0, True), (4, False)])
def test_a_bypassed_lora_does_not_count(mode: int, lora: bool) -> None:
    between = {
        "id": 2, "type": "LoraLoaderModelOnly", "mode": mode, "inputs": [linked("model", 1)],
        "outputs": [{"type": "MODEL"}],
    }  # fmt: skip
    links = [[1, 1, 0, 2, 0], [2, 2, 0, 9, 0]]
    assert [s.lora for s in of(LOADER, between, sampler(linked("model", 2)), links=links)] == [lora]


def test_a_muted_sampler_does_not_run() -> None:
    assert of(LOADER, {**sampler(linked("model", 1)), "mode": 2}, links=[[1, 1, 0, 9, 0]]) == []


@pytest.mark.parametrize(("turbo", "steps"), [(True, 4), (False, 20)])
def test_a_switch_decides_the_steps(turbo: bool, steps: int) -> None:
    few = {"id": 3, "type": "PrimitiveInt", "widgets_values": [4, "fixed"]}
    many = {"id": 4, "type": "PrimitiveInt", "widgets_values": [20, "fixed"]}
    switch = {
        "id": 5, "type": "ComfySwitchNode", "widgets_values": [turbo],
        "inputs": [linked("on_false", 2, "INT"), linked("on_true", 3, "INT")],
    }  # fmt: skip
    links = [[1, 1, 0, 9, 0], [2, 4, 0, 5, 0], [3, 3, 0, 5, 1], [4, 5, 0, 9, 1]]
    own = sampler(linked("model", 1), linked("steps", 4, "INT"))
    assert [s.steps for s in of(LOADER, few, many, switch, own, links=links)] == [steps]


def test_the_use_of_a_subgraph_sets_its_steps() -> None:
    own = sampler(linked("model", 1), linked("steps", 2, "INT"))
    links = [
        {"id": 1, "origin_id": 1, "origin_slot": 0},
        {"id": 2, "origin_id": -10, "origin_slot": 0},
    ]
    inner = {"id": "sub", "nodes": [LOADER, own], "links": links, "inputs": [{"name": "count"}]}
    use = {"id": 7, "type": "sub", "widgets_values": [12]}
    use["inputs"] = [{"name": "count", "type": "INT", "link": None, "widget": {"name": "count"}}]
    found = of(use, links=[], definitions={"subgraphs": [inner]})
    assert [each.steps for each in found] == [12]


def test_a_sampler_without_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no model at KSampler"):
        of(sampler(), links=[])


def test_nodes_of_a_subgraph_run_once_for_each_use() -> None:
    inner = {"id": "sub", "nodes": [LOADER], "links": [], "inputs": []}
    uses = [{"id": identity, "type": "sub"} for identity in (7, 8)]
    workflow = {"nodes": uses, "links": [], "definitions": {"subgraphs": [inner]}}
    assert [node.kind for node in Graph.of(workflow).nodes()] == ["UNETLoader"] * 2
