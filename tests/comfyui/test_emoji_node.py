"""The emoji models as a node: loaded from the pack itself, on any version."""

from pathlib import Path

import comfy.sample
import comfy.sd
import folder_paths
import nodes
import pytest
import torch
from tiny_models import reads_fluxs_width

from magcache.hosts.comfyui.nodes.emoji import CLIPS, PICTURES, MagCacheEmojiModel

REPOSITORY = Path(__file__).parents[2]
LATENTS = {PICTURES: (1, 16, 16, 16), CLIPS: (1, 16, 8, 16, 16)}


def make(kind: str, prompt: str, model: object = None, steps: int = 8) -> torch.Tensor:
    """Samples with ComfyUI's own nodes for text and decoding: (frames, 32, 32, 3) in [0, 1]."""
    loaded, clip, vae = MagCacheEmojiModel().load(kind)
    (positive,) = nodes.CLIPTextEncode().encode(clip, prompt)
    (negative,) = nodes.CLIPTextEncode().encode(clip, "")
    latent = torch.zeros(LATENTS[kind])
    samples = comfy.sample.sample(
        model or loaded, comfy.sample.prepare_noise(latent, 1), steps, 3.0, "euler", "simple",
        positive, negative, latent, denoise=1.0, disable_pbar=True, seed=1,
    )  # fmt: skip
    return nodes.VAEDecode().decode(vae, {"samples": samples})[0]


@pytest.mark.parametrize(("kind", "frames"), [(PICTURES, 1), (CLIPS, 8)])
def test_it_draws_on_white(kind: str, frames: int) -> None:
    picture = make(kind, "fox face")
    assert picture.shape == (frames, 32, 32, 3)
    assert picture[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean() > 0.9
    assert picture.std() > 0.1
    assert torch.diff(picture, dim=2).abs().mean() < 0.15, "noise would give 1/3"


@pytest.mark.skipif(not reads_fluxs_width(), reason="this ComfyUI takes every FLUX for 3072 wide")
def test_the_pictures_model_is_what_comfyuis_own_loader_makes_of_the_file() -> None:
    file = REPOSITORY / "models" / "emoji" / "diffusion_pytorch_model.safetensors"
    own = comfy.sd.load_diffusion_model(str(file), model_options={"dtype": torch.float32})
    mine, _, _ = MagCacheEmojiModel().load(PICTURES)
    weights = mine.model.diffusion_model.state_dict()
    for name, weight in own.model.diffusion_model.state_dict().items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=0)


def test_its_noise_levels_are_those_it_was_trained_with() -> None:
    model, _, _ = MagCacheEmojiModel().load(PICTURES)
    sampling = model.get_model_object("model_sampling")
    assert [round(sampling.percent_to_sigma(part), 3) for part in (0.25, 0.5)] == [0.75, 0.5]


def test_unknown_words_are_left_out_and_named_with_what_is_near(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, clip, _ = MagCacheEmojiModel().load(PICTURES)
    (said,) = nodes.CLIPTextEncode().encode(clip, "A photo of a cat, foxx")
    (meant,) = nodes.CLIPTextEncode().encode(clip, "cat")
    assert torch.equal(said[0][0], meant[0][0])
    (warning,) = caplog.messages
    assert "does not know: a, photo, of, foxx (did you mean fox" in warning


def test_words_beyond_the_eighth_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    _, clip, _ = MagCacheEmojiModel().load(PICTURES)
    nodes.CLIPTextEncode().encode(clip, "cat dog fox " * 3)
    assert caplog.messages == ["MagCache: it reads at most 8 words, so it ignored fox"]


def test_a_text_without_a_known_word_is_refused_with_words_to_try() -> None:
    _, clip, _ = MagCacheEmojiModel().load(PICTURES)
    with pytest.raises(ValueError, match=r"does not know: qwerty\. Try fox face"):
        nodes.CLIPTextEncode().encode(clip, "qwerty")


def test_no_folder_of_comfyui_is_touched() -> None:
    before = {name: list(paths) for name, (paths, _) in folder_paths.folder_names_and_paths.items()}
    MagCacheEmojiModel().load(PICTURES)
    after = {name: list(paths) for name, (paths, _) in folder_paths.folder_names_and_paths.items()}
    assert after == before
