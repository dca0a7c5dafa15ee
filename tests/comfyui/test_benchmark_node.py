"""MagCache Benchmark: it measures the workflow's own sampling, whichever node makes it."""

import copy
import getpass
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.samplers
import folder_paths
import nodes
import numpy as np
import pytest
import torch
from comfyserver import Graph, Server, folders, running
from tiny_models import TINY, sample
from trained import turbo, unet
from watch import settings_of

from magcache.doctor.tiny import EVERY, flat
from magcache.doctor.tiny import sample as tiny_sample
from magcache.hosts.comfyui import benchmark, host
from magcache.hosts.comfyui.benchmark import fewer_sigmas
from magcache.hosts.comfyui.nodes.benchmark import MagCacheBenchmark
from magcache.hosts.comfyui.nodes.emoji import PICTURES, MagCacheEmojiModel, Pixels
from magcache.hosts.comfyui.nodes.report import MagCacheReport
from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed
from magcache.hosts.comfyui.settings import SETTINGS

STEPS = 12
Interrupted = comfy.model_management.InterruptProcessingException


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("user", "temp", "output"):
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path / "user" / "magcache" / "measure"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(host, "show", lambda text, node_id: texts.append(text) if node_id else 0)
    return texts


@pytest.fixture(scope="module")
def emoji() -> tuple[Any, Any, Any]:
    return MagCacheEmojiModel().load(PICTURES)


def conds(clip: Any, prompt: str = "fox face") -> tuple[Any, Any]:
    encode = nodes.CLIPTextEncode().encode
    return encode(clip, prompt)[0], encode(clip, "")[0]


def measuring(model: Any, vae: Any, speeds: str = "2", samples: int = 2) -> Any:
    return MagCacheBenchmark().apply(model, vae, speeds, samples, "7")[0]


def draw(
    emoji: Any, model: Any, steps: int = STEPS, seed: int = 1, prompt: str = "fox face", **more: Any
) -> torch.Tensor:
    """With KSampler."""
    asked = {"sampler_name": "euler", "scheduler": "simple", "cfg": 3.0, **more}
    names = asked["sampler_name"], asked["scheduler"]
    latent = {"samples": torch.zeros(1, 16, 16, 16)}
    ends = conds(emoji[1], prompt)
    return nodes.KSampler().sample(model, seed, steps, asked["cfg"], *names, *ends, latent)[0][
        "samples"
    ]


def told(model: Any) -> tuple[np.ndarray, str, dict[str, list[str]]]:
    """Picture and text of the report, and the table's cells by name."""
    picture, text, _ = MagCacheReport().report(model, None)["result"]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return picture[0].numpy(), text, {name: rest for name, *rest in cells}


def test_it_returns_the_sampling_without_magcache_and_the_report_shows_the_measurement(
    emoji: Any, tmp_path: Path
) -> None:
    model = measuring(emoji[0], emoji[2], "2, 3")
    assert torch.equal(draw(emoji, model), draw(emoji, emoji[0]))
    picture, text, rows = told(model)
    assert [*rows] == ["uncached, 12 steps", "MagCache 2x", "plain, 6 steps", "MagCache 3x",
                       "plain, 5 steps"]  # fmt: skip
    psnrs = [float(row[3].split()[0]) for row in [*rows.values()][1:]]
    assert psnrs[0] > psnrs[1] > 15 and psnrs[2] > psnrs[3] > 15
    assert picture.shape[0] > 5 * 96 and picture.std() > 0.1
    assert "ComfyUI" in text and "euler, 12 steps, CFG 3" in text and "CFGGuider" in text
    assert "2 seeds of one prompt" in text and "pictures: 32x32" in text
    names = sorted(path.suffix for path in (tmp_path / "output" / "magcache").iterdir())
    assert names == [".md", ".png"]


def test_the_text_holds_nothing_private(emoji: Any, tmp_path: Path) -> None:
    model = measuring(emoji[0], emoji[2], samples=1)
    draw(emoji, model)
    text = told(model)[1]
    private = ("fox", str(Path.home()), str(tmp_path), os.uname().nodename, f"{getpass.getuser()}/")
    assert not [word for word in private if word in text]


def test_samples_are_those_of_the_seeds_that_follow(emoji: Any, folder: Path) -> None:
    kept: list[Any] = []
    model = measuring(emoji[0], emoji[2])
    keep = benchmark._Repeated.sample

    def sampled(self: Any, way: Any, number: int, on_step: Any) -> Any:
        output, figures = keep(self, way, number, on_step)
        kept.append((way.name, output.clone()))
        return output, figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark._Repeated, "sample", sampled)
        draw(emoji, model, seed=5)
    full = [output for name, output in kept if name.startswith("uncached")]
    fewer = [output for name, output in kept if name.startswith("plain")]
    for number in range(2):
        torch.testing.assert_close(full[number], draw(emoji, emoji[0], seed=5 + number))
        plain = draw(emoji, emoji[0], steps=6, seed=5 + number)
        torch.testing.assert_close(fewer[number], plain, rtol=0, atol=1e-3)


def test_a_sampler_with_a_guider_is_measured_too(emoji: Any) -> None:
    from comfy_extras import nodes_custom_sampler as custom

    def node(name: str, *given: Any) -> Any:
        found = getattr(custom, name)
        call = getattr(found(), getattr(found, "FUNCTION", ""), None) or found.execute
        result = call(*given)
        return getattr(result, "result", result)

    model = measuring(emoji[0], emoji[2], samples=1)
    (guider,) = node("CFGGuider", model, *conds(emoji[1]), 3.0)
    (noise,) = node("RandomNoise", 1)
    sigmas = comfy.samplers.calculate_sigmas(
        emoji[0].get_model_object("model_sampling"), "simple", STEPS
    )
    sampler = comfy.samplers.sampler_object("euler")
    latent = {"samples": torch.zeros(1, 16, 16, 16)}
    output, denoised = node("SamplerCustomAdvanced", noise, guider, sampler, sigmas, latent)
    plain = draw(emoji, emoji[0])
    assert torch.equal(output["samples"], plain)
    torch.testing.assert_close(denoised["samples"], plain, rtol=0, atol=1e-4)
    assert len(told(model)[2]) == 3


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "euler_ancestral", "res_multistep"])
def test_other_samplers(sampler: str, emoji: Any) -> None:
    model = measuring(emoji[0], emoji[2], samples=1)
    output = draw(emoji, model, sampler_name=sampler)
    assert torch.equal(output, draw(emoji, emoji[0], sampler_name=sampler))
    assert f"{sampler}, 12 steps" in told(model)[1]
    computed, _, of = told(model)[2]["MagCache 2x"][0].split()
    assert int(computed) < int(of)


@pytest.mark.parametrize("name", ["flux", "wan_t2v", "qwen_image"])
def test_other_models_and_videos(name: str) -> None:
    tiny = TINY[name]
    patcher = tiny.build()

    class Decoder:
        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            frames = latent[:, :3].movedim(1, -1)  # (B, [frames,] H, W, 3)
            return frames.repeat_interleave(2, -2).repeat_interleave(2, -3).sigmoid()

    model = measuring(patcher, Decoder(), samples=1)
    assert torch.equal(sample(model, tiny, STEPS), sample(patcher, tiny, STEPS))
    assert told(model)[2]["MagCache 2x"][0] == "6 of 12"


@pytest.mark.skipif("ltx2" not in EVERY, reason="this ComfyUI has no LTX-2")
def test_of_a_video_with_sound_the_pictures_are_compared() -> None:
    tiny, seen = EVERY["ltx2"], []

    class Decoder:
        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(latent.shape))
            frames = latent[:, :3].movedim(1, -1)
            return frames.repeat_interleave(4, -2).repeat_interleave(4, -3).sigmoid()

    patcher = tiny.build()
    model = measuring(patcher, Decoder(), samples=1)
    output, plain = (tiny_sample(each, tiny, STEPS) for each in (model, patcher))
    assert torch.equal(flat(output), flat(plain))
    assert {*seen} == {tuple(tiny.latent().unbind()[0].shape)}
    assert told(model)[2]["MagCache 2x"][0] == "6 of 12"


def test_the_u_net_and_the_distilled_model(emoji: Any) -> None:
    class Colours:
        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            return latent[:, :3].movedim(1, -1).sigmoid()

    patcher = unet()
    positive, negative = conds(emoji[1])
    for each in (positive, negative):
        each[0][1]["pooled_output"] = each[0][0].mean(1)
    model = measuring(patcher, Colours(), samples=1)
    latent = {"samples": torch.zeros(1, 4, 32, 32)}
    nodes.KSampler().sample(model, 1, STEPS, 5.0, "euler", "karras", positive, negative, latent)
    assert told(model)[2]["MagCache 2x"][0] == "6 of 12"
    few = turbo()
    model = measuring(few, Pixels(few.get_model_object("latent_format")), samples=1)
    draw(emoji, model, steps=8, cfg=1.0)
    assert [*told(model)[2]] == ["uncached, 8 steps", "MagCache 2x", "plain, 6 steps"]


def test_where_nothing_can_be_skipped_the_table_says_so(emoji: Any) -> None:
    model = measuring(emoji[0], emoji[2], samples=1)
    draw(emoji, model, steps=3)
    rows = told(model)[2]
    assert [*rows] == ["uncached, 3 steps", "MagCache 2x"]
    assert rows["MagCache 2x"][0] == "3 of 3" and rows["MagCache 2x"][3] == "equal / equal"


def stop(monkeypatch: pytest.MonkeyPatch, at: int) -> list[tuple[str, int]]:
    """Interrupts in the middle of one sampling; the samplings that are made."""
    made: list[tuple[str, int]] = []
    make = benchmark._Repeated.sample

    def sampled(self: Any, way: Any, number: int, on_step: Any) -> Any:
        def step(done: int) -> None:
            on_step(done)
            if len(made) == at and done == 2 and not stopped:
                stopped.append(1)
                comfy.model_management.interrupt_current_processing()
                comfy.model_management.throw_exception_if_processing_interrupted()

        found = make(self, way, number, step)
        made.append((way.name, number))
        return found

    stopped: list[int] = []
    monkeypatch.setattr(benchmark._Repeated, "sample", sampled)
    return made


@pytest.mark.parametrize("at", [0, 1, 4])
def test_cancelling_keeps_what_is_done_and_the_next_run_goes_on(
    at: int, emoji: Any, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stop(monkeypatch, at)
    with pytest.raises(Interrupted):
        draw(emoji, measuring(emoji[0], emoji[2]))
    assert (
        shown[-1]
        == f"stopped, {at} runs are kept: run the workflow again with the same seed to go on"
    )
    again = measuring(*MagCacheEmojiModel().load(PICTURES)[::2])  # as after a restart
    output = draw(emoji, again)
    assert len(made) == len({*made}) == 6
    assert torch.equal(output, draw(emoji, emoji[0]))
    assert [row[1] for row in told(again)[2].values()]


@pytest.mark.parametrize(
    "other",
    [{"prompt": "red apple"}, {"seed": 2}, {"steps": 13}, {"cfg": 2.0}, {"sampler_name": "ddim"}],
)
def test_what_was_measured_of_something_else_is_not_taken(
    other: dict[str, Any], emoji: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stop(monkeypatch, 1)
    with pytest.raises(Interrupted):
        draw(emoji, measuring(emoji[0], emoji[2], samples=1))
    del made[:]
    draw(emoji, measuring(emoji[0], emoji[2], samples=1), **other)
    assert len(made) == 3


def test_a_cache_in_front_is_taken_off_for_the_measurement(emoji: Any) -> None:
    (fast,) = MagCacheTargetSpeed().apply(emoji[0], 3.0, "automatic")
    model = measuring(fast, emoji[2], samples=1)
    assert torch.equal(draw(emoji, model), draw(emoji, emoji[0]))
    assert told(model)[2]["MagCache 2x"][0] == "6 of 12"


def test_a_magcache_node_behind_takes_its_place(emoji: Any, shown: list[str]) -> None:
    (fast,) = MagCacheTargetSpeed().apply(measuring(emoji[0], emoji[2]), 2.0, "automatic")
    draw(emoji, fast)
    assert "another MagCache node behind this one took its place" in shown[-1]


def test_nothing_of_it_stays(emoji: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = measuring(emoji[0], emoji[2], samples=1)
    before = set(vars(model.model)), set(vars(model.model.diffusion_model))
    options = copy.copy(model.model_options["transformer_options"])
    stop(monkeypatch, 1)
    with pytest.raises(Interrupted):
        draw(emoji, model)
    draw(emoji, model)
    assert before == (set(vars(model.model)), set(vars(model.model.diffusion_model)))
    assert model.model_options["transformer_options"] == options
    copied = copy.deepcopy(model.model_options)["transformer_options"][SETTINGS]
    assert copied.instead is settings_of(model).instead, "older ComfyUI copy them"


def test_progress_is_shown_on_the_node_and_ends_with_a_line_a_way(
    emoji: Any, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "_EVERY", 0.0)  # however fast the machine is
    draw(emoji, measuring(emoji[0], emoji[2]))
    assert shown[0] == "warming up\n0 %"
    assert any(text.startswith("uncached, 12 steps, sample 1 of 2\n") for text in shown)
    lines = shown[-1].splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "uncached, 12 steps", "MagCache 2x", "plain, 6 steps",
    ]  # fmt: skip


def test_the_samplers_own_bar_goes_once_over_the_whole_measurement(emoji: Any) -> None:
    seen: list[tuple[int, int]] = []
    hook = comfy.utils.set_progress_bar_global_hook
    hook(lambda value, total, *_, **__: seen.append((value, total)))
    try:
        draw(emoji, measuring(emoji[0], emoji[2]))
    finally:
        hook(None)
    whole = [value for value, total in seen if total == 2 * 30]
    assert whole == sorted(whole) and whole[-1] == 60
    assert seen[-1] == (STEPS, STEPS)


def test_another_cache_is_named(emoji: Any) -> None:
    model = measuring(emoji[0], emoji[2])
    model.model_options["transformer_options"]["easycache"] = SimpleNamespace(name="easycache")
    with pytest.raises(ValueError, match=r"EasyCache or LazyCache .*: remove that node"):
        draw(emoji, model)


def test_one_step_leaves_nothing_to_measure(emoji: Any) -> None:
    with pytest.raises(ValueError, match="1 step leaves nothing to skip"):
        draw(emoji, measuring(emoji[0], emoji[2]), steps=1)


def test_a_model_that_is_left_alone_is_named(monkeypatch: pytest.MonkeyPatch, emoji: Any) -> None:
    from magcache.hosts.comfyui.nodes import benchmark as node

    monkeypatch.setattr(node, "remembers", lambda _: "it stores something")
    with pytest.raises(ValueError, match="nothing to measure, MagCache leaves this model"):
        measuring(emoji[0], emoji[2])


@pytest.mark.parametrize(
    ("speeds", "said"),
    [("2, fast", "'fast' is not a speed"), ("", "1 to 6 speeds"), ("9", "up to 4")],
)
def test_mistaken_speeds_are_told_before_the_run(speeds: str, said: str) -> None:
    assert said in str(MagCacheBenchmark.VALIDATE_INPUTS(speeds))
    assert MagCacheBenchmark.VALIDATE_INPUTS("1.5, 2") is True


def test_one_way_without_memory_leaves_the_others(
    emoji: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = benchmark._Repeated.sample

    def sampled(self: Any, way: Any, *more: Any) -> Any:
        if way.name == "MagCache 2x":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return make(self, way, *more)

    monkeypatch.setattr(benchmark._Repeated, "sample", sampled)
    model = measuring(emoji[0], emoji[2], "2, 3", 1)
    draw(emoji, model)
    rows = told(model)[2]
    assert rows["MagCache 2x"][0] == "out of memory" and "of 12" in rows["MagCache 3x"][0]


@pytest.mark.parametrize("scheduler", ["simple", "sgm_uniform", "normal", "karras", "exponential",
                                       "linear_quadratic"])  # fmt: skip
@pytest.mark.parametrize("name", ["emoji", "unet"])
def test_fewer_steps_have_the_noise_levels_of_the_scheduler(
    name: str, scheduler: str, emoji: Any
) -> None:
    model = emoji[0] if name == "emoji" else unet()
    sampling = model.get_model_object("model_sampling")

    def levels(steps: int) -> torch.Tensor:
        return comfy.samplers.calculate_sigmas(sampling, scheduler, steps)

    found = fewer_sigmas(levels(28), 14, float(sampling.sigma_min))
    assert len(found) == 15 and found[0] == levels(28)[0] and found[-1] == levels(28)[-1]
    assert (torch.diff(found) < 0).all()
    far = (found - levels(14)).abs() / levels(14)[0]
    assert far.max() < 0.05


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = folders(tmp_path_factory.mktemp("comfyui") / "base")
    with running(base, os.environ["COMFYUI_PATH"]) as server:
        yield server


def graph(steps: int, **benchmark: Any) -> Graph:
    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    asked = {"speeds": "2, 3", "samples": 2, **benchmark}
    return {
        "emoji": node("MagCacheEmojiModel", makes=PICTURES),
        "measure": node("MagCacheBenchmark", model=["emoji", 0], vae=["emoji", 2], **asked),
        "positive": node("CLIPTextEncode", clip=["emoji", 1], text="fox face"),
        "negative": node("CLIPTextEncode", clip=["emoji", 1], text=""),
        "latent": node("EmptySD3LatentImage", width=128, height=128, batch_size=1),
        "sampler": node(
            "KSampler", model=["measure", 0], positive=["positive", 0], negative=["negative", 0],
            latent_image=["latent", 0], steps=steps, seed=1, cfg=3.0, sampler_name="euler",
            scheduler="simple", denoise=1.0,
        ),
        "report": node("MagCacheReport", model=["measure", 0], after=["sampler", 0]),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["emoji", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="measured"),
    }  # fmt: skip


@pytest.mark.slow
def test_in_a_server_it_is_cancelled_and_goes_on(server: Server) -> None:
    import time
    import urllib.request

    asked = graph(40)
    server.post(asked)
    kept = server.base / "user" / "magcache" / "measure"
    end = time.monotonic() + 120
    while len(list(kept.glob("*/*.safetensors"))) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    urllib.request.urlopen(urllib.request.Request(f"{server.address}/interrupt", b""), timeout=30)
    while server.get("/queue")["queue_running"] and time.monotonic() < end:
        time.sleep(0.1)
    done = len(list(kept.glob("*/*.safetensors")))
    assert 3 <= done < 10
    outputs = server.succeed(asked)
    (text,) = outputs["report"]["text"]
    assert "| MagCache 2x " in text and "20 of 40" in text and "ComfyUI" in text
    assert outputs["report"]["images"] and outputs["save"]["images"]
    assert server.log.count("40/40") < 2 * 2 * (2 + 4)
    assert not list(kept.glob("*/*.safetensors")), "complete"
    assert len(list((server.base / "output" / "magcache").iterdir())) == 2


@pytest.mark.slow
def test_in_a_server_a_mistaken_speed_is_refused_at_once(server: Server) -> None:
    answer = server.post(graph(12, speeds="2, fast"))
    (error,) = answer["node_errors"]["measure"]["errors"]
    assert "'fast' is not a speed: give numbers above 1 and up to 4" in error["details"]
