"""Where models come from, and where they are put."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import magcache
from magcache.app import models, tiny
from magcache.app.models import Models, class_in, load_folder, offload_layers, place, placement
from magcache.app.settings import Problem, Settings


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with all its components as a folder."""
    folder = tmp_path_factory.mktemp("framepack")
    tiny.build().save_pretrained(folder)
    return folder


def latents(pipe: Any, **more: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    (sections,) = pipe(
        image=Image.new("RGB", (32, 32), "teal"), prompt="it turns", height=32, width=32,
        num_frames=33, num_inference_steps=4, generator=torch.Generator().manual_seed(0),
        output_type="latent", return_dict=False, **more,
    )  # fmt: skip
    return sections[-1]


def test_a_saved_pipeline_is_loaded_with_all_its_parts(saved: Path) -> None:
    assert class_in(saved) == "HunyuanVideoFramepackPipeline"
    torch.testing.assert_close(latents(load_folder(saved)), latents(tiny.build()))


def test_the_prompt_reaches_the_tiny_model() -> None:
    pipe = tiny.build()
    own = latents(pipe)
    assert torch.equal(own, latents(tiny.build()))
    encoded = [pipe.encode_prompt(prompt)[0] for prompt in ("it turns", "it jumps")]
    assert not torch.allclose(*encoded)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "there is no such folder"),
        ({}, "it has neither a model_index.json nor a config.json"),
        ({"model_index.json": "{"}, "model_index.json is damaged"),
        ({"model_index.json": "[]"}, "model_index.json is damaged"),
        ({"model_index.json": '{"a": 1}'}, "model_index.json is damaged"),
        (
            {"model_index.json": '{"_class_name": "FluxPipeline"}'},
            "holds FluxPipeline, not a FramePack model",
        ),
        (
            {"config.json": '{"_class_name": "WanTransformer3DModel"}'},
            "holds WanTransformer3DModel, not a FramePack model",
        ),
        (
            {"model_index.json": '{"_class_name": "HunyuanVideoFramepackPipeline"}'},
            "no model from the folder",
        ),
    ],
)
def test_of_every_folder_without_the_model_the_page_says_the_same_and_the_console_why(
    files: dict[str, str] | None,
    message: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Visitors of the page do not learn which folders there are."""
    folder = tmp_path / "models"
    if files is not None:
        folder.mkdir()
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    with pytest.raises(Problem) as raised:
        Models(tiny_only=True).get(Settings(folder=str(folder)), lambda _: None)
    assert message in caplog.text
    assert str(raised.value) == (
        f"{folder} holds no FramePack model that can be loaded: give a folder with a "
        "model_index.json (a pipeline saved by diffusers) or a config.json (its transformer). "
        "The app's console says more."
    )


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x", "\0", "x" * 5000])
def test_what_is_no_folder_is_told_like_one_without_the_model(name: str) -> None:
    with pytest.raises(Problem, match="holds no FramePack model that can be loaded"):
        load_folder(name)


def test_a_damaged_weight_file_is_an_error_of_one_line(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    weights = next((tmp_path / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(Problem, match="can be loaded") as raised:
        load_folder(tmp_path)
    assert "\n" not in str(raised.value)


def test_weights_that_could_run_code_are_not_loaded(saved: Path, tmp_path: Path) -> None:
    """A folder may come from anywhere: only safetensors are read, no pickles."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    weights = next((tmp_path / "vae").glob("*.safetensors"))
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(Problem, match="can be loaded"):
        load_folder(tmp_path)


@pytest.mark.parametrize("name", models.TRANSFORMERS)
def test_a_folder_with_the_transformer_alone_is_taken(
    name: str, saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its published folder names the class of FramePack's own code."""
    shutil.copytree(saved / "transformer", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "_class_name": name}))
    (saved / "vision").mkdir(exist_ok=True)
    for part in ("feature_extractor", "image_encoder"):
        link = saved / "vision" / part
        if not link.exists():
            link.symlink_to(saved / part)
    # In place of the two repositories on the Hub that it shares its other parts with.
    monkeypatch.setattr(models, "REST", str(saved))
    monkeypatch.setattr(models, "VISION", str(saved / "vision"))
    pipe = load_folder(tmp_path)
    assert type(pipe.transformer).__name__ == models.TRANSFORMERS[0]
    assert pipe.transformer.dtype == torch.bfloat16 and pipe.vae.dtype == torch.float16
    own = dict(tiny.build().transformer.named_parameters())
    for key, value in pipe.transformer.named_parameters():
        torch.testing.assert_close(value.float(), own[key], atol=1e-2, rtol=1e-2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_downloaded() -> None:
    with pytest.raises(Problem, match="needs a CUDA GPU, and PyTorch sees none here"):
        Models().get(Settings(), lambda _: None)


def test_a_model_is_loaded_once_and_anew_for_other_settings() -> None:
    told: list[str] = []
    kept = Models(tiny_only=True)
    first = kept.get(Settings(), told.append)
    assert kept.get(Settings(steps=10), told.append) is first
    assert kept.get(Settings(model="FramePack-F1"), told.append) is not first
    assert told == ["Loading FramePack", "Loading FramePack-F1"]
    kept.forget()
    kept.get(Settings(), told.append)
    assert len(told) == 3


@pytest.mark.parametrize(
    ("free", "how"), [(60, "whole"), (47, "whole"), (46, "parts"), (26, "parts"), (25, "layers")]
)
def test_where_the_parts_are_put(free: float, how: str) -> None:
    """FramePack's transformer takes 26 GB, its text encoders 16 and 1, the rest 4."""
    assert placement(free, [26, 16, 1, 4]) == how


def test_on_a_cpu_everything_is_there() -> None:
    pipe = tiny.build()
    assert place(pipe, preserved=6) == ("on the GPU" if torch.cuda.is_available() else "on the CPU")


def test_a_layer_at_a_time_the_video_is_the_same_and_skipping_too() -> None:
    pipe = tiny.build()
    with magcache.apply(pipe, preset="framepack", threshold=9, retention=0):
        expected = latents(pipe)
    streamed = tiny.build()
    offload_layers(streamed, torch.device("cpu"))
    with magcache.apply(streamed, preset="framepack", threshold=9, retention=0) as applied:
        torch.testing.assert_close(latents(streamed), expected)
    assert applied.report().schedule == "#..."
