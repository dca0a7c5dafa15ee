"""The trained Wan of the repository, loaded by ComfyUI's own loader and accelerated."""

import base64
import json
import logging
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.sample
import comfy.sd
import folder_paths
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed

FOLDER = Path(__file__).parents[2] / "models" / "emoji-video"
STEPS = 10


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))


def condition(prompt: str) -> list[list[Any]]:
    description = json.loads((FOLDER / "emoji.json").read_text())
    kept, words = description["embedding"], description["vocabulary"]
    values = np.frombuffer(base64.b64decode(kept["base64"]), dtype="<f2").astype(np.float32)
    table = torch.from_numpy(values.reshape(kept["shape"]))
    indices = [words.index(word) for word in prompt.split()]
    embeds = table[torch.tensor(indices + [0] * (8 - len(indices)))]
    return [[F.pad(embeds, (0, 4096 - embeds.shape[-1]))[None], {}]]


def clip(model: Any, seed: int) -> torch.Tensor:
    """(3, 8, 32, 32) in [0, 1]."""
    latent = torch.zeros(1, 16, 8, 16, 16)
    noise = comfy.sample.prepare_noise(latent, seed)
    positive, negative = condition("octopus"), condition("")
    samples = comfy.sample.sample(
        model, noise, STEPS, 3.0, "euler", "simple", positive, negative, latent, denoise=1.0,
        disable_pbar=True, seed=seed,
    )  # fmt: skip
    own = comfy.latent_formats.Wan21().process_in(samples)  # the model has no such autoencoder
    frames = F.pixel_shuffle(own.transpose(1, 2)[0, :, :12], 2)
    return (frames.transpose(0, 1) / 2 + 0.5).clamp(0, 1)


def test_it_loads_whole_and_runs_at_a_target_speed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = comfy.sd.load_diffusion_model(str(FOLDER / "wan2.1_emoji_video.safetensors"))
    assert "unexpected" not in caplog.text and "missing" not in caplog.text
    network = model.model.diffusion_model
    assert (type(network).__name__, len(network.blocks), network.dim) == ("WanModel", 6, 256)

    plain = clip(model, 2)
    assert plain[..., [0, 0, -1, -1], [0, -1, 0, -1]].mean() > 0.8, "a clip stands on white"
    (fast,) = MagCacheTargetSpeed().apply(model, 2.0, "automatic")
    error = (clip(fast, 2) - plain).square().mean()
    assert 25 < float(-10 * error.log10()) < 80
