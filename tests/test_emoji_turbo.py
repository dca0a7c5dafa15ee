"""The distilled emoji model: its file, and that few steps without guidance are enough."""

import json
from functools import cache

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors import safe_open

from magcache.emoji import image, keywords, turbo
from tests.denoised import made, stored
from tools.train_emoji.model import CONFIG
from tools.train_turbo.evaluate import closeness

FOLDER = keywords.find_folder("emoji-turbo")


@cache
def model():
    return turbo.load()


@cache
def draw(steps: int) -> torch.Tensor:
    prompts = model().prompts("demo")[:4]
    return model().generate(prompts, range(len(prompts)), steps, cfg=1)


def test_the_words_and_splits_are_those_of_the_emoji_model():
    emoji = image.load()
    assert model().words.vocabulary == emoji.words.vocabulary
    assert torch.equal(model().words.table, emoji.words.table)
    assert model().words.splits == emoji.words.splits


def test_the_file_holds_the_transformer_in_8_megabytes_with_matrices_of_8_bits():
    path = FOLDER / keywords.WEIGHTS["emoji-turbo"]
    assert path.stat().st_size <= 8_000_000
    with torch.device("meta"):
        expected = FluxTransformer2DModel(**CONFIG).state_dict()
    with safe_open(path, "pt") as weights:
        assert set(weights.keys()) == set(expected)
        types = {
            name: torch.float8_e4m3fn if weight.ndim == 2 else torch.bfloat16
            for name, weight in expected.items()
        }
        assert {name: weights.get_tensor(name).dtype for name in expected} == types


def test_it_is_loaded_in_float32():
    assert {weight.dtype for weight in model().pipe.transformer.parameters()} == {torch.float32}


def test_four_steps_without_guidance_draw_what_the_emoji_model_draws_in_28():
    """The same seeds give the same pictures, as far as the distillation went."""
    prompts = model().prompts("demo")[:4]
    full = image.load().generate(prompts, range(len(prompts)), 28, cfg=3)
    assert closeness(draw(4), full)["mean"] > 25
    assert closeness(draw(4), full.roll(1, 0))["mean"] < 12, "another prompt's picture"


def test_fewer_steps_of_it_cost_what_the_evaluation_says():
    path = FOLDER / "evaluation.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["psnr"]["fewer_plain_steps"]
    (said,) = [row for row in rows if (row["steps"], row["against"]) == (3, 4)]
    assert closeness(draw(3), draw(4))["mean"] == pytest.approx(said["mean"], abs=4)


def test_the_evaluation_is_of_this_model():
    """Of the weights that lie beside it: it names the same training run."""
    evaluation = json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))
    description = json.loads((FOLDER / keywords.DESCRIPTION).read_text(encoding="utf-8"))
    assert evaluation["training"] == description["training"]


def test_diffusers_denoises_as_the_tests_in_comfyui_expect():
    torch.testing.assert_close(
        made()["turbo.denoised"], stored()["turbo.denoised"], rtol=0, atol=1e-4
    )
