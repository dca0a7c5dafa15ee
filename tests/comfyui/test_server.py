"""The pack in a running ComfyUI server, with graphs as its page sends them."""

import asyncio
import json
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from comfyserver import DONE_WITHIN, PACK, REPOSITORY, Graph, Server, folders, running
from PIL import Image
from safetensors.torch import save_file
from tiny_models import DIM, TINY, reads_fluxs_width

CHECKOUT = os.environ["COMFYUI_PATH"]
EMOJI = REPOSITORY / "models" / "emoji"
READS_EMOJI = reads_fluxs_width()
STEPS = 28
HEADLINE = r"MagCache: (\d+) of (\d+) evaluations skipped, ([\d.]+)x \((.+)\)"
OLD_TYPES = {
    "chroma_calibration": "chroma", "flux_calibration": "flux",
    "flux_kontext_calibration": "flux_kontext", "hunyuanvideo1.5": "hunyuan_video1.5",
}  # fmt: skip
TITLES = {
    "MagCache": "MagCache (published rule)", "CompileModel": "Compile Model",
    "MagCacheCalibration": "MagCache Calibration",
    "MagCacheTargetSpeed": "MagCache", "MagCacheReport": "MagCache Report",
    "MagCacheCompare": "MagCache Compare", "MagCacheBenchmark": "MagCache Benchmark",
}  # fmt: skip
WIDGETS = {
    "magcache_thresh": 0.12, "retention_ratio": 0.2, "magcache_K": 2, "start_step": 0,
    "end_step": -1,
}  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = folders(tmp_path_factory.mktemp("comfyui") / "base")
    models = base / "models" / "diffusion_models"
    (models / "emoji").symlink_to(EMOJI)
    wan = TINY["wan_t2v"].build().model.diffusion_model.state_dict()
    save_file({k: v.contiguous() for k, v in wan.items()}, models / "wan.safetensors")
    (base / "custom_nodes" / "random_text.py").write_text(RANDOM_TEXT)
    with running(base, CHECKOUT) as server:
        yield server


RANDOM_TEXT = f'''
import torch


class RandomText:
    """Seeded conditioning for tiny random models of Wan."""

    FUNCTION = "encode"
    RETURN_TYPES = ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {{"required": {{"seed": ("INT", {{"default": 1}})}}}}

    def encode(self, seed):
        return ([[torch.randn(1, 6, 4096, generator=torch.Generator().manual_seed(seed)), {{}}]],)


NODE_CLASS_MAPPINGS = {{"RandomText{DIM}": RandomText}}
'''


def emoji_graph(name: str, steps: int = STEPS, seed: int = 1) -> Graph:
    """Text to emoji, as a workflow for any FLUX would be; "model" is what the sampler uses."""
    return {
        "loader": _node(
            "UNETLoader",
            unet_name="emoji/diffusion_pytorch_model.safetensors",
            weight_dtype="default",
        ),
        "words": _node("MagCacheEmojiModel", makes="pictures (FLUX)"),
        "positive": _node("CLIPTextEncode", clip=["words", 1], text="fox face"),
        "negative": _node("CLIPTextEncode", clip=["words", 1], text=""),
        "latent": _node("EmptySD3LatentImage", width=128, height=128, batch_size=1),
        "sampler": _sampler(steps, seed, 3.0),
        "decode": _node("VAEDecode", samples=["sampler", 0], vae=["words", 2]),
        "save": _node("SaveImage", images=["decode", 0], filename_prefix=name),
    }


def wan_graph(name: str, steps: int = STEPS, seed: int = 1) -> Graph:
    """A tiny random Wan, saved as a latent."""
    return {
        "loader": _node("UNETLoader", unet_name="wan.safetensors", weight_dtype="default"),
        "positive": _node(f"RandomText{DIM}", seed=1),
        "negative": _node(f"RandomText{DIM}", seed=2),
        "latent": _node("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1),
        "sampler": _sampler(steps, seed, 3.0),
        "save": _node("SaveLatent", samples=["sampler", 0], filename_prefix=name),
    }


def on(graph: Graph, node: str = "MagCache", **inputs: Any) -> Graph:
    """The graph with a node between the loader and the sampler."""
    if node == "MagCache":
        inputs = {**WIDGETS, **inputs}
    graph["magcache"] = _node(node, model=["loader", 0], **inputs)
    graph["sampler"]["inputs"]["model"] = ["magcache", 0]
    return graph


def _sampler(steps: int, seed: int, cfg: float) -> dict[str, Any]:
    return _node(
        "KSampler", model=["loader", 0], positive=["positive", 0], negative=["negative", 0],
        latent_image=["latent", 0], steps=steps, seed=seed, cfg=cfg, sampler_name="euler",
        scheduler="simple", denoise=1.0,
    )  # fmt: skip


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def image(server: Server, outputs: dict[str, Any]) -> np.ndarray:
    (saved,) = outputs["save"]["images"]
    with Image.open(server.base / "output" / saved["subfolder"] / saved["filename"]) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255


def headlines(server: Server) -> list[tuple[int, int, float, str]]:
    found = re.findall(HEADLINE, server.log)
    return [(int(skipped), int(of), float(speed), rest) for skipped, of, speed, rest in found]


def calibrate(server: Server, graph: Graph, model_type: str = "auto") -> Path:
    """Calibrates with a graph; the file that has come."""
    before = server.calibrations
    server.succeed(on(graph, "MagCacheCalibration", model_type=model_type))
    (new,) = set(server.calibrations) - set(before)
    assert f"stored as {new.stem}" in server.log
    return new


def test_installed_from_an_archive_the_nodes_are_there_and_nothing_is_wrong(
    server: Server,
) -> None:
    pack = server.base / "custom_nodes" / PACK
    assert not (pack / ".git").exists() and not pack.is_symlink()
    for name, title in TITLES.items():
        info = server.get(f"/object_info/{name}")[name]
        assert (info["display_name"], info["category"]) == (title, "MagCache")
        assert info["python_module"] == f"custom_nodes.{PACK}"
    start = server.log.partition("To see the GUI go to")[0]
    (named,) = [line for line in start.splitlines() if PACK in line]
    assert re.search(rf"[\d.]+ seconds: \S+{PACK}$", named), "only in the list of import times"
    assert "magcache" not in start.replace(named, "").lower()


@pytest.mark.skipif(not READS_EMOJI, reason="this ComfyUI takes every FLUX for 3072 wide")
def test_emoji_at_a_target_speed(server: Server) -> None:
    def graph(name: str, seed: int) -> Graph:
        target = {"speedup": 2.0, "calibration": "automatic"}
        return on(emoji_graph(name, 28, seed), "MagCacheTargetSpeed", **target)

    before = len(headlines(server))
    fast = image(server, server.succeed(graph("first", 6)))
    plain = image(server, server.succeed(emoji_graph("same", 28, 6)))
    (accelerated,) = headlines(server)[before:]
    assert accelerated[:2] == (14, 28) and "target speed-up 2" in accelerated[3]
    assert accelerated[3].startswith("forecast, ")
    psnr = -10 * np.log10(np.square(fast - plain).mean())
    assert psnr > 35, f"{psnr:.1f} dB"


@pytest.mark.skipif(not READS_EMOJI, reason="this ComfyUI takes every FLUX for 3072 wide")
def test_an_emoji_with_a_calibration_of_ones_own(server: Server) -> None:
    plain = image(server, server.succeed(emoji_graph("plain")))
    file = calibrate(server, emoji_graph("measured"), "flux")
    cached = image(
        server,
        server.succeed(on(emoji_graph("cached"), model_type="flux", calibration=file.name)),
    )

    assert plain.shape == (32, 32, 3)
    corners = plain[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.min() > 0.9, "an emoji stands on white"
    assert plain.std() > 0.1, "and is not all white"
    neighbours = np.abs(np.diff(plain, axis=1)).mean()
    assert neighbours < 0.15, f"neighbouring pixels of noise differ by 1/3: {neighbours}"
    difference = np.abs(cached - plain).mean()
    assert 0 < difference < 0.05
    skipped, of, speedup, rest = headlines(server)[-1]
    assert of == STEPS and skipped >= STEPS // 3
    assert speedup > 1.15, "by the clock"
    assert rest == f"{file.stem}, threshold 0.12, K 2"


def test_a_calibration_is_a_file_and_can_be_chosen_without_a_restart(server: Server) -> None:
    file = calibrate(server, wan_graph("measured", steps=10))
    data = json.loads(file.read_text())
    assert data["model"] == "WanModel"
    assert data["settings"]["steps"] == 10
    for measured in data["branches"].values():
        assert [len(values) for values in measured.values()] == [10] * 6

    server.succeed(on(wan_graph("cached", steps=12), model_type="auto", calibration=file.name))
    skipped, of, _, rest = headlines(server)[-1]
    assert of == 12 and skipped > 0
    assert rest.startswith(file.stem)
    listed = server.get("/object_info/MagCache")["MagCache"]["input"]["optional"]["calibration"]
    assert file.name in listed[0]


@pytest.mark.skipif(not READS_EMOJI, reason="this ComfyUI takes every FLUX for 3072 wide")
def test_older_model_types_of_flux_do_their_work(server: Server) -> None:
    for old in ("flux_calibration", "flux_kontext_calibration"):
        file = calibrate(server, emoji_graph("old", 8), old)
        assert file.name.startswith(f"{OLD_TYPES[old]}-8steps-")
        server.succeed(on(emoji_graph("old", 20), model_type=old, magcache_thresh=0.24))
        skipped, of, _, rest = headlines(server)[-1]
        assert of == 20 and skipped > 0 and rest.startswith(f"{OLD_TYPES[old]}, threshold 0.24")


@pytest.mark.parametrize("old", OLD_TYPES)
def test_older_model_types_are_taken(server: Server, old: str) -> None:
    # Wan is none of them: the graph is accepted, and the node says so when it runs.
    for node in ("MagCache", "MagCacheCalibration"):
        error = server.fail(on(wan_graph("old"), node, model_type=old))
        assert error["node_id"] == "magcache"
        assert f"model_type {OLD_TYPES[old]} is for" in error["exception_message"]
        assert "the model is WanModel" in error["exception_message"]


def test_an_older_workflow_without_the_optional_widgets_runs(server: Server) -> None:
    server.succeed(on(wan_graph("older", steps=12), model_type="wan2.1_t2v_1.3B"))
    assert headlines(server)[-1][1] == 12


async def _shown_on_nodes(server: Server, graph: Graph) -> list[list[tuple[str, str]]]:
    """Node and text of what the page that queues a graph is sent, and of what another one is."""
    pages = ("this", "another")
    async with aiohttp.ClientSession(server.address) as session:
        sockets = [await session.ws_connect(f"/ws?clientId={page}") for page in pages]
        await session.post("/prompt", json={"prompt": graph, "client_id": pages[0]})
        return [await _texts_until_done(socket) for socket in sockets]


async def _texts_until_done(socket: aiohttp.ClientWebSocketResponse) -> list[tuple[str, str]]:
    """What comes until the queue is empty again, which every page is told."""
    texts, waiting = [], 0
    while True:
        message = await socket.receive(DONE_WITHIN)
        if message.type is aiohttp.WSMsgType.BINARY:
            texts += _text_in(message.data)
        elif (told := json.loads(message.data))["type"] == "status":
            before, waiting = waiting, told["data"]["status"]["exec_info"]["queue_remaining"]
            if before and not waiting:
                return texts


def _text_in(message: bytes) -> list[tuple[str, str]]:
    """Kind 3 of the binary messages: length of the node's id, the id, the text."""
    kind, length = struct.unpack(">II", message[:8])
    node, text = message[8 : 8 + length], message[8 + length :]
    return [(node.decode(), text.decode())] if kind == 3 else []


def test_what_a_page_is_shown_of_a_sampling_and_its_report(server: Server) -> None:
    graph = on(wan_graph("report"), model_type="auto", calibration="published")
    graph["report"] = _node("MagCacheReport", model=["magcache", 0], after=["sampler", 0])
    graph["save"]["inputs"]["samples"] = ["report", 2]
    texts, of_another_page = asyncio.run(_shown_on_nodes(server, graph))
    live = [text for node, text in texts if node == "magcache"]
    assert live[0] == f"step 1 of {STEPS}" and len(live) >= 2
    skipped, of, speed, rest = headlines(server)[-1]
    shown, _, count = live[-1].partition("x, ")  # rounded from more digits than the log has
    assert abs(float(shown) - speed) < 0.06 and count == f"{of - skipped} of {of} computed"
    (told,) = [text for node, text in texts if node == "report"]
    headline = f"MagCache: {skipped} of {of} evaluations skipped, {speed:.2f}x ({rest})"
    assert told.startswith(f"{headline}  \nasked: model_type auto, ")
    assert of_another_page == []

    runs = len(headlines(server))
    cached = server.succeed(graph)  # nothing has changed: nothing runs, and it is shown again
    assert len(headlines(server)) == runs
    assert cached["report"]["text"][0].startswith(f"{headline}\n")
    (shown,) = cached["report"]["images"]
    assert (server.base / "temp" / shown["filename"]).is_file()

    graph["sampler"]["inputs"]["seed"] = 2
    again = server.succeed(graph)
    assert "runs       2 since the MagCache node" in again["report"]["text"][0]


def test_a_report_behind_the_sampler_of_another_model_says_what_to_do(server: Server) -> None:
    graph = on(wan_graph("unsampled"), model_type="auto")
    graph["sampler"]["inputs"]["model"] = ["loader", 0]
    graph["report"] = _node("MagCacheReport", model=["magcache", 0], after=["sampler", 0])
    (text,) = server.succeed(graph)["report"]["text"]
    assert text.startswith("MagCache: no run yet\n")


def test_two_images_are_compared(server: Server) -> None:
    def graph(*sizes: int) -> Graph:
        images = {
            name: _node("EmptyImage", width=size, height=48, batch_size=2, color=color)
            for name, size, color in zip("ab", sizes, (0x00FF00, 0x0000FF), strict=True)
        }
        both = {f"image_{name}": [name, 0] for name in images}
        return {**images, "compare": _node("MagCacheCompare", **both)}

    outputs = server.succeed(graph(64, 64))["compare"]
    assert outputs["text"][0].startswith("PSNR 1.76 dB, ") and len(outputs["images"]) == 1
    error = server.fail(graph(64, 72))
    assert error["node_id"] == "compare"
    assert "image_a holds 2 of 64x48 and image_b holds 2 of 72x48" in error["exception_message"]


def _refusals(server: Server, node: str = "MagCache", **inputs: Any) -> list[str]:
    """What is said of a node that is refused before anything runs, each time that it is said."""
    answer = server.post(on(wan_graph("refused"), node, **inputs))
    assert answer["error"]["type"] == "prompt_outputs_failed_validation", answer
    return [error["details"] for error in answer["node_errors"]["magcache"]["errors"]]


@pytest.mark.parametrize(
    ("node", "others"),
    [
        ("MagCache", {"calibration": "automatic", "retention_ratio": 0.2}),
        ("MagCacheCalibration", {}),
    ],
)
def test_an_unknown_model_type_is_refused_once_and_by_name(
    server: Server, node: str, others: dict[str, Any]
) -> None:
    (refusal,) = _refusals(server, node, model_type="wan9", **others)
    assert refusal.startswith("model_type: 'wan9' not in ['auto', 'flux', 'flux_kontext'")


@pytest.mark.parametrize("name", ["none.json", "../outside.json"])
def test_a_calibration_that_is_not_in_the_folder_is_refused_once(server: Server, name: str) -> None:
    (server.base / "user" / "outside.json").write_text("{}", encoding="utf-8")
    (refusal,) = _refusals(server, model_type="auto", calibration=name)
    assert refusal.startswith(f"calibration: '{name}' not in ['automatic', 'published'")


def test_the_workflow_of_another_magcache_node_is_recognised(server: Server) -> None:
    """It has magcache_K before retention_ratio, and ComfyUI gives values by their order."""
    swapped = {"retention_ratio": 5.0, "magcache_K": 0.1}
    (refusal,) = _refusals(server, model_type="flux", **swapped)
    assert refusal == (
        "retention_ratio - 5 is outside 0.1 to 0.3: this workflow was made for another MagCache "
        "node, which has magcache_K before retention_ratio. Set magcache_K to 5, and "
        "retention_ratio to what magcache_K was, for instance 0.1"
    )


def test_a_retention_ratio_out_of_range_is_refused_once(server: Server) -> None:
    (refusal,) = _refusals(server, model_type="flux", retention_ratio=0.5)
    assert refusal == "retention_ratio - 0.5 is outside 0.1 to 0.3: choose a value in between"


def test_a_broken_or_foreign_calibration_stops_at_the_node(server: Server) -> None:
    folder = server.base / "user" / "magcache"
    folder.mkdir(exist_ok=True)
    (folder / "broken.json").write_text('{"format": 1, "branches": {')
    error = server.fail(on(wan_graph("broken"), model_type="auto", calibration="broken.json"))
    assert error["node_id"] == "magcache"
    assert "broken.json is not a calibration file" in error["exception_message"]

    measured = {"sigmas": [1.0, 0.5], "ratios": [1.0, 0.9], "spreads": [0, 0],
                "cosine_distances": [0, 0]}  # fmt: skip
    foreign = {"format": 1, "model": "Chroma", "branches": {"cond": measured}}
    (folder / "foreign.json").write_text(json.dumps(foreign))
    error = server.fail(on(wan_graph("foreign"), model_type="auto", calibration="foreign.json"))
    message = error["exception_message"]
    assert "foreign.json was measured on Chroma, but the model is WanModel" in message


def test_contradictory_steps_stop_at_the_node(server: Server) -> None:
    error = server.fail(on(wan_graph("steps"), model_type="auto", start_step=9, end_step=3))
    assert error["node_id"] == "magcache"
    assert "end_step 3 lies before start_step 9" in error["exception_message"]


def test_a_window_that_leaves_no_step_is_told(server: Server) -> None:
    server.succeed(on(wan_graph("window", steps=12), model_type="auto", start_step=12))
    assert "start_step 12 to end_step -1 leaves none of the 12 steps" in server.log
    assert headlines(server)[-1][0] == 0


def test_another_kind_of_input_is_refused(server: Server) -> None:
    graph = on(wan_graph("kind"), model_type="auto")
    graph["magcache"]["inputs"]["model"] = ["positive", 0]
    answer = server.post(graph)
    assert answer["node_errors"]["magcache"]["errors"][0]["type"] == "return_type_mismatch"
