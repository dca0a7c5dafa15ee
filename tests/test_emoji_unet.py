"""The small U-Net: its file, its latents, and what its pipeline hands to it."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open

from magcache.emoji import keywords, unet
from tests.denoised import made, stored
from tools.train_unet import model as training

SPLITS = {"calibration": 8, "test": 96, "demo": 8}


@pytest.fixture(scope="module")
def model():
    return unet.load()


def pictures():
    return torch.rand(2, 4, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_decoding_inverts_the_latents_of_training():
    decoded = unet.to_images(training.to_latents(pictures()))
    assert torch.allclose(decoded * 2 - 1, pictures(), atol=1e-6)


def test_the_noise_levels_are_those_of_training(model):
    kept = model.pipe.scheduler.alphas_cumprod
    assert torch.allclose(kept, training.kept_signal(), rtol=1e-4)


def test_the_pipeline_hands_the_unet_what_training_did(model):
    seen = {}
    hook = model.pipe.unet.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    model.generate(["dog face"], [0], steps=2, cfg=1)
    hook.remove()
    embeds, pooled = model.encode(["dog face"])
    assert torch.equal(seen["encoder_hidden_states"], embeds)
    assert torch.equal(seen["added_cond_kwargs"]["text_embeds"], pooled)
    assert seen["added_cond_kwargs"]["time_ids"].tolist() == [[*training.TIME_IDS]]


def test_the_splits_are_those_of_the_emoji_model(model):
    emoji = keywords.read(keywords.find_folder("emoji"))
    for split, size in SPLITS.items():
        assert model.prompts(split) == emoji.prompts(split) and len(emoji.prompts(split)) == size


def test_the_file_holds_the_unet_and_nothing_else_in_8_megabytes():
    path = keywords.find_folder("emoji-unet") / keywords.WEIGHTS["emoji-unet"]
    assert path.stat().st_size <= 8_000_000
    with torch.device("meta"):
        expected = UNet2DConditionModel(**training.CONFIG).state_dict()
    with safe_open(path, "pt") as weights:
        assert set(weights.keys()) == set(expected)
        assert {weights.get_tensor(name).dtype for name in expected} == {torch.float16}


def test_pictures_depend_on_seed_and_prompt_alone(model):
    first = model.generate(["dog face", "dog face"], [0, 1], steps=2)
    again = model.generate(["dog face"], [0], steps=2)
    assert first.shape == (2, 3, 32, 32)
    assert torch.allclose(first[:1], again, atol=1e-4)
    assert not torch.allclose(first[0], first[1], atol=1e-2)


def test_the_evaluation_is_of_this_model():
    """Of the weights that lie beside it: it names the same training run."""
    folder = keywords.find_folder("emoji-unet")
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    description = json.loads((folder / keywords.DESCRIPTION).read_text(encoding="utf-8"))
    assert evaluation["training"] == description["training"]


def test_it_draws_what_is_asked_for(model):
    drawn = model.generate(["blue heart", "hamburger", "panda face"], [0, 0, 0], steps=10, cfg=5)
    assert drawn.isfinite().all()
    heart, burger, panda = drawn[:, :, 8:24, 8:24].mean((2, 3))
    assert heart[2] > heart[0] + 0.2, "a blue heart is blue"
    assert burger[0] > burger[2] + 0.2, "a hamburger is brown"
    assert abs(panda[0] - panda[2]) < 0.1, "a panda is grey"
    assert torch.diff(drawn, dim=3).abs().mean() < 0.15, "noise would give 1/3"


def test_diffusers_denoises_as_the_tests_in_comfyui_expect():
    torch.testing.assert_close(
        made()["unet.denoised"], stored()["unet.denoised"], rtol=0, atol=1e-4
    )
