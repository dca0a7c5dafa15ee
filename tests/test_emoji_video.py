"""The small video model: its file under Wan's own names, its latents, its prompts."""

from itertools import combinations

import pytest
import torch
from safetensors import safe_open

from magcache.emoji import keywords
from magcache.emoji import video as emoji_video
from tools.train_video import model as training

SPLITS = {"calibration": 8, "test": 96, "demo": 8}


@pytest.fixture(scope="module")
def model():
    return emoji_video.load()


def clips(seed=0):
    return torch.rand(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_decoding_inverts_the_packing_of_training():
    decoded = emoji_video.to_clips(training.to_latents(clips()))
    assert torch.allclose(decoded * 2 - 1, clips(), atol=1e-6)
    assert torch.equal(training.to_clips(training.to_latents(clips())), clips())


def test_the_pipeline_hands_the_transformer_what_training_did(model):
    seen = {}
    hook = model.pipe.transformer.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    model.generate(["octopus"], [0], steps=2, cfg=1)
    hook.remove()
    assert seen["hidden_states"].shape == (1, 16, 8, 16, 16)
    assert seen["encoder_hidden_states"].shape == (1, 8, 4096)
    assert seen["timestep"].tolist() == [1000 * model.pipe.scheduler.sigmas[1]]


def test_words_take_the_first_columns_and_the_others_are_zero(model):
    embeds = model.encode(["octopus", ""])
    assert embeds[..., 128:].count_nonzero() == 0
    assert torch.equal(embeds[0, 1:], embeds[1, 1:])
    with pytest.raises(ValueError, match="does not know the word 'octopuss': did you mean octopus"):
        model.encode(["octopuss"])


def test_splits_are_disjoint_and_of_known_words(model):
    splits = {name: model.prompts(name) for name in (*SPLITS, "other")}
    assert {name: len(splits[name]) for name in SPLITS} == SPLITS
    for first, second in combinations(splits.values(), 2):
        assert not set(first) & set(second)
    every = [prompt for prompts in splits.values() for prompt in prompts]
    assert model.encode(every).shape == (len(every), 8, 4096)


def test_the_file_holds_wans_own_names_and_is_small():
    path = keywords.find_folder("emoji-video") / keywords.WEIGHTS["emoji-video"]
    assert path.stat().st_size <= 16_000_000
    with safe_open(path, "pt") as weights:
        names = set(weights.keys())
    assert {"head.modulation", "blocks.5.self_attn.q.weight", "time_projection.1.bias"} <= names


def test_clips_depend_on_seed_and_prompt_alone_and_stand_on_white(model):
    first = model.generate(["octopus", "octopus"], [0, 1], steps=6)
    again = model.generate(["octopus"], [0], steps=6)
    assert first.shape == (2, 3, 8, 32, 32)
    assert torch.allclose(first[:1], again, atol=1e-3)
    assert not torch.allclose(first[0], first[1], atol=1e-2)
    assert first[..., [0, 0, -1, -1], [0, -1, 0, -1]].mean() > 0.8
