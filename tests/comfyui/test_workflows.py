"""The example workflows against the node definitions of a running server, and in its page."""

import importlib.util
import json
import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyserver import PACK, REPOSITORY, Server, folders, running
from PIL import Image
from workflows import FOLDER, Box, Workflow, box, inside, overlapping

from magcache.curves import presets
from tools.workflows.__main__ import EXAMPLES, TESTED
from tools.workflows.definitions import Definitions, version
from tools.workflows.files import stand_in

CHECKOUT = os.environ["COMFYUI_PATH"]
FRONT_END = os.environ.get("COMFYUI_FRONT_END")  # a page of another version than the installed
PATHS = sorted(FOLDER.glob("*.json"))
OURS = {
    "MagCache", "MagCacheCalibration", "MagCacheTargetSpeed", "MagCacheReport", "MagCacheCompare",
    "MagCacheBenchmark", "MagCacheEmojiModel",
}  # fmt: skip
OTHER_NODES = {
    "emoji_benchmark": "MagCacheBenchmark", "emoji_calibration": "MagCacheCalibration",
    "flux1_published_rule": "MagCache",
}  # fmt: skip
HERE = version((Path(CHECKOUT) / "comfyui_version.py").read_text().split('"')[-2])
UPSCALE_LOADER = '''
class UpscaleModelLoader:
    """Where spandrel is not installed, this node is missing, and the page of 0.3.64 breaks."""

    RETURN_TYPES = ("UPSCALE_MODEL",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model_name": ([],)}}


NODE_CLASS_MAPPINGS = {"UpscaleModelLoader": UpscaleModelLoader}
'''

pytestmark = pytest.mark.slow
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
RUNNABLE = [path for path in PATHS if version(EXAMPLES[path.stem].since) <= HERE]
each_runnable = pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = folders(tmp_path_factory.mktemp("comfyui") / "base")
    stand_in((json.loads(path.read_text()) for path in PATHS), base / "models")
    (base / "input").mkdir()
    Image.new("RGB", (64, 64)).save(base / "input" / "example.png")  # as ComfyUI comes with one
    (base / "custom_nodes" / "upscale_loader.py").write_text(UPSCALE_LOADER)
    arguments = ("--front-end-root", FRONT_END) if FRONT_END else ()
    with running(base, CHECKOUT, *arguments) as server:
        yield server


@pytest.fixture(scope="module")
def definitions(server: Server) -> dict[str, Any]:
    return server.get("/object_info")


def test_there_is_one_for_every_family_and_every_node_that_needs_no_other_pack() -> None:
    assert {path.stem for path in PATHS} == set(EXAMPLES)
    assert {node["type"] for path in PATHS for node in Workflow(path, {}).nodes} >= OURS


@each
def test_it_shows_the_one_node_behind_the_loader_and_its_loras(path: Path) -> None:
    workflow = Workflow(path, {})
    (kind,) = {OTHER_NODES.get(path.stem, "MagCacheTargetSpeed")}
    ours = [node for node in workflow.nodes if node["type"] == kind]
    assert len(ours) == (2 if path.stem.startswith("wan2.2") else 1)
    loaders = ("UNETLoader", "CheckpointLoaderSimple", "LoraLoaderModelOnly", "MagCacheEmojiModel")
    for node in ours:
        _, before, *_ = workflow.links[node["inputs"][0]["link"]]
        shift = path.stem == "emoji_video"  # so that both samplers have it
        assert workflow.node(before)["type"] in (*loaders, *["ModelSamplingSD3"] * shift)


@each
def test_it_opens_where_its_texts_can_be_read(path: Path) -> None:
    """The page fits a template into three quarters of a window of 1920x1080 or so."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    groups = [group["bounding"] for group in workflow["groups"]]
    width = max(x + w for x, _, w, _ in groups) - min(x for x, *_ in groups)
    height = max(y + h for _, y, _, h in groups) - min(y for _, y, *_ in groups)
    assert min(0.75 * 1860 / width, 0.75 * 1040 / height) > 0.68
    assert workflow["extra"]["ds"]["scale"] == 0.8  # where the page takes what is saved


@each_runnable
def test_every_node_is_known_and_every_widget_holds_a_value_that_it_takes(
    path: Path, definitions: dict[str, Any]
) -> None:
    workflow = Workflow(path, definitions)
    for node in workflow.nodes:
        assert node["type"] in definitions
        for widget in workflow.widgets(node):
            about = (node["type"], widget.name, widget.value)
            if widget.name.startswith("after "):
                assert widget.value in ("fixed", "increment", "decrement", "randomize", "image")
            elif widget.type in ("COMBO", "COMFY_DYNAMICCOMBO_V3"):
                assert widget.value in widget.choices, about
            elif widget.type in ("INT", "FLOAT"):
                assert isinstance(widget.value, int | float), about
                low, high = widget.options.get("min"), widget.options.get("max")
                assert low is None or low <= widget.value, about
                assert high is None or widget.value <= high, about
            else:
                assert isinstance(widget.value, {"STRING": str, "BOOLEAN": bool}[widget.type])


@each_runnable
def test_links_join_what_they_say_and_nothing_required_is_left_open(
    path: Path, definitions: dict[str, Any]
) -> None:
    workflow = Workflow(path, definitions)
    for number, (_, source, out, target, slot, kind) in workflow.links.items():
        output = workflow.node(source)["outputs"][out]
        socket = workflow.node(target)["inputs"][slot]
        assert number in output["links"] and number == socket["link"]
        assert definitions[workflow.node(source)["type"]]["output"][out] in (kind, "*")
        types = {name: type_ for name, type_, *_ in workflow.inputs(workflow.node(target))}
        assert types[socket["name"]] in (kind, "*")
    for node in workflow.nodes:
        linked = {socket["name"] for socket in node["inputs"] if socket["link"] is not None}
        given = {widget.name for widget in workflow.widgets(node)}
        for name, _, _, required in workflow.inputs(node):
            assert not required or name in linked | given, (node["type"], name)


@each
def test_nodes_stand_apart_inside_groups_that_do_too(
    path: Path, definitions: dict[str, Any]
) -> None:
    workflow = Workflow(path, definitions)
    nodes = {f"{n['id']} {n['type']}": box(n) for n in workflow.nodes + workflow.notes}
    groups = {
        group["title"]: (x, y, x + width, y + height)
        for group in workflow.json["groups"]
        for x, y, width, height in [group["bounding"]]
    }
    assert not overlapping(nodes) and not overlapping(groups)
    for name, area in nodes.items():
        assert [inside(area, group) for group in groups.values()].count(True) == 1, name


def test_the_published_rule_is_at_the_recommended_settings(definitions: dict[str, Any]) -> None:
    workflow = Workflow(FOLDER / "flux1_published_rule.json", definitions)
    (node,) = [node for node in workflow.nodes if node["type"] == "MagCache"]
    values = {widget.name: widget.value for widget in workflow.widgets(node)}
    assert values["recommended"] is True and values["model_type"] == "auto"
    preset = presets.load("flux")
    shown = (values["magcache_thresh"], values["retention_ratio"], values["magcache_K"])
    assert shown == (preset.threshold, preset.retention, preset.max_skip)
    assert (values["start_step"], values["end_step"]) == (0, -1)


@each
def test_notes_say_which_comfyui_has_the_model_where_not_every_one_has_it(path: Path) -> None:
    (note,) = Workflow(path, {}).notes
    example = EXAMPLES[path.stem]
    told = note["widgets_values"][0].partition("**Needs a ComfyUI that has ")[2]
    assert told.startswith(f"{example.model}:** {example.since} has it" if example.model else "")
    assert bool(told) == (example.since != TESTED[-1])


@each
def test_notes_name_every_file_its_folder_and_an_address_of_comfyuis_own_templates(
    path: Path, definitions: dict[str, Any]
) -> None:
    workflow = Workflow(path, definitions)
    text = "\n".join(note["widgets_values"][0] for note in workflow.notes)
    held = [file for node in workflow.nodes for file in node["properties"].get("models", [])]
    files = [file for number, file in enumerate(held) if file not in held[:number]]
    assert len(re.findall(r"huggingface\.co", text)) == len(files)
    for file in files:
        folder = text.partition(f"]({file['url']})")[0].rpartition("ComfyUI/models/")[2]
        assert file["url"].endswith(f"/{file['name']}")
        assert folder.startswith(f"{file['directory']}**") and f"[{file['name']}](" in text
    named = _addresses_in_templates()
    if not named:
        pytest.skip("ComfyUI's templates are not installed: addresses not compared")
    assert not {file["url"] for file in files} - named


def _addresses_in_templates() -> set[str]:
    names = ("comfyui_workflow_templates_json", "comfyui_workflow_templates")
    specs = [spec for name in names if (spec := importlib.util.find_spec(name)) and spec.origin]
    texts = [
        path.read_text(encoding="utf-8")
        for spec in specs
        for path in (Path(str(spec.origin)).parent / "templates").glob("*.json")
    ]
    pattern = re.compile(r"https://huggingface\.co/[^\"\\)\s?]+\.safetensors")
    return {found for text in texts for found in pattern.findall(text)}


@each_runnable
def test_the_script_makes_it_again(path: Path, server: Server, definitions: Any) -> None:
    maker = EXAMPLES[path.stem].workflow(path.stem, Definitions([definitions]))
    made, kept = maker.as_json(), json.loads(path.read_text(encoding="utf-8"))
    assert made["links"] == kept["links"]
    for new, old in zip(made["nodes"], kept["nodes"], strict=True):
        assert (new["type"], new.get("title")) == (old["type"], old.get("title"))
        values = old["widgets_values"]  # this version may have more
        assert new["widgets_values"][: len(values)] == values


@each
def test_the_page_is_offered_it_with_a_preview(path: Path, server: Server) -> None:
    assert path.stem in server.get("/workflow_templates")[PACK]
    assert server.get(f"/api/workflow_templates/{PACK}/{path.name}")["nodes"]
    preview = path.with_suffix(".jpg")
    assert preview.stat().st_size < 150_000
    with Image.open(preview) as picture:
        assert picture.format == "JPEG" and picture.width == 800


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2_000_000


@each_runnable
def test_the_server_takes_it(path: Path, server: Server, definitions: dict[str, Any]) -> None:
    """Its models are empty files here: what runs without a download is tried below."""
    answer = server.post(Workflow(path, definitions).as_prompt())
    assert "prompt_id" in answer and not answer["node_errors"], answer
    for address, body in (("/queue", {"clear": True}), ("/interrupt", {})):
        _post(server, address, body)


def _post(server: Server, address: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(server.address + address, json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request, timeout=30).close()


@pytest.mark.parametrize("name", ["emoji", "emoji_video"])
def test_emoji_are_the_same_at_half_the_cost_in_their_first_run(
    name: str, server: Server, definitions: dict[str, Any]
) -> None:
    prompt = Workflow(FOLDER / f"{name}.json", definitions).as_prompt()
    smaller = {"steps": 14, "batch_size": 1, "length": 9}
    for node in prompt.values():
        node["inputs"] |= {k: v for k, v in smaller.items() if k in node["inputs"]}
    before = len(server.log)
    pictures = _saved(server, server.succeed(prompt))
    told = r"MagCache: 7 of 14 evaluations skipped.*target speed-up 2"
    assert re.search(told, server.log[before:])
    plain, fast = pictures["without"], pictures["with"]
    assert plain.shape == fast.shape and plain.shape[-3:-1] == (256, 256)
    assert plain[..., :8, :8, :].mean() > 0.9 and plain.std() > 0.1, "a drawing on white"
    psnr = -10 * np.log10(np.square(plain - fast).mean())
    assert 25 < psnr < 90, f"{psnr:.1f} dB"


@pytest.mark.parametrize(("name", "model"), [("emoji", "emoji"), ("emoji_video", "emoji-video")])
def test_the_models_know_the_words_that_their_notes_name(name: str, model: str) -> None:
    workflow = Workflow(FOLDER / f"{name}.json", {})
    (note,) = workflow.notes
    named = re.findall("`([^`]+)`", note["widgets_values"][0])
    texts = [node["widgets_values"][0] for node in workflow.nodes if "Text" in node["type"]]
    prompts = [*(name for name in named if name != "speedup"), *filter(None, texts)]
    known = json.loads((REPOSITORY / "models" / model / "emoji.json").read_text())["prompts"]
    assert len(prompts) == 4 and set(prompts) <= set(known)


def _saved(server: Server, outputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """The saved pictures by the last word of their names."""
    found = {}
    for output in outputs.values():
        for image in output.get("images", []):
            if image["type"] == "output":
                path = server.base / "output" / image["subfolder"] / image["filename"]
                with Image.open(path) as picture:
                    word = re.findall("without|with", image["filename"])[-1]
                    found[word] = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    return found


def test_the_page_opens_every_one_and_would_queue_what_is_written(
    server: Server, definitions: dict[str, Any]
) -> None:
    pytest.importorskip("playwright", reason="pip install playwright")
    from tools.workflows.browser import editor, program

    if program() is None:
        pytest.skip("no Chromium here, such as Debian's chromium-headless-shell")
    with editor(server.address) as page:
        for path in RUNNABLE:
            workflow = Workflow(path, definitions)
            page.open(workflow.json)
            assert not page.errors, (path.stem, page.errors)
            nodes = page.nodes()
            assert len(nodes) == len(workflow.nodes) + len(workflow.notes)
            assert all(node["known"] and not node["invalid"] for node in nodes), path.stem
            drawn: dict[str, Box] = {
                f"{node['id']} {node['type']}": (x, y, x + width, y + height)
                for node in nodes
                for x, y, width, height in [node["box"]]
            }
            assert not overlapping(drawn), path.stem
            written, queued = workflow.as_prompt(), page.prompt()
            assert set(queued) == set(written)
            for number, node in written.items():
                inputs = queued[number]["inputs"]  # this version may add some
                assert {name: inputs[name] for name in node["inputs"]} == node["inputs"]
