"""The nodes in ComfyUI's page, as a new user and an old workflow meet them."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from comfyserver import folders, running

pytest.importorskip("playwright", reason="pip install playwright")
from tools.workflows.browser import Editor, editor, program

CHECKOUT = os.environ["COMFYUI_PATH"]
FRONT_END = os.environ.get("COMFYUI_FRONT_END")  # a page of another version than the installed
RULE = "MagCache"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="no Chromium here"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editor]:
    base = folders(tmp_path_factory.mktemp("comfyui") / "base")
    arguments = ("--front-end-root", FRONT_END) if FRONT_END else ()
    with running(base, CHECKOUT, *arguments) as server, editor(server.address) as page:
        yield page


def saved(*values: Any) -> dict[str, Any]:
    """A workflow of one node, with the values of its widgets as they were saved."""
    node = {
        "id": 1, "type": RULE, "pos": [0, 0], "size": [300, 200], "flags": {}, "order": 0,
        "mode": 0, "properties": {}, "widgets_values": [*values],
        "inputs": [{"name": "model", "type": "MODEL", "link": None}],
        "outputs": [{"name": "MODEL", "type": "MODEL", "links": []}],
    }  # fmt: skip
    return {"nodes": [node], "links": [], "groups": [], "version": 0.4}


def queued(page: Editor) -> dict[str, Any]:
    (node,) = page.prompt().values()
    return node["inputs"]


@pytest.mark.parametrize("added", [(), ("offload device",)])
def test_a_workflow_from_before_recommended_keeps_the_settings_typed_into_it(
    page: Editor, added: tuple[str, ...]
) -> None:
    page.open(saved("flux", 0.2, 0.15, 4, 1, -2, *added))
    inputs = queued(page)
    assert inputs["recommended"] is False
    assert inputs["residuals"] == (*added, "automatic")[0]
    assert (inputs["magcache_thresh"], inputs["magcache_K"], inputs["end_step"]) == (0.2, 4, -2)


@pytest.mark.parametrize("recommended", [True, False])
def test_a_newer_workflow_opens_as_it_was_saved(page: Editor, recommended: bool) -> None:
    page.open(saved("flux", 0.2, 0.15, 4, 1, -2, "automatic", recommended, "published", True))
    inputs = queued(page)
    assert inputs["recommended"] is recommended and inputs["calibration"] == "published"


def test_a_new_node_takes_the_recommended_settings(page: Editor) -> None:
    page.open({"nodes": [], "links": [], "groups": [], "version": 0.4})
    page.page.evaluate(f"() => app.graph.add(LiteGraph.createNode('{RULE}'))")
    inputs = queued(page)
    assert (inputs["model_type"], inputs["recommended"]) == ("auto", True)


@pytest.mark.parametrize(
    "typed", ["magcache", "faster", "speed up", "accelerate", "teacache", "加速"]
)
def test_the_search_finds_magcache_first(page: Editor, typed: str) -> None:
    known = "() => LiteGraph.registered_node_types.MagCacheTargetSpeed.nodeData.search_aliases"
    if page.page.evaluate(known) is None and typed != "magcache":
        pytest.skip("this ComfyUI's search knows no aliases")
    page.open({"nodes": [], "links": [], "groups": [], "version": 0.4})
    found = page.search(typed)
    titles = [text.strip().splitlines()[0].strip() for text in found if text.strip()]
    assert titles[0] == "MagCache", titles
