"""The small trained model: its files, its text, its latents, and that both ways of loading work."""

from itertools import combinations

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from safetensors import safe_open

from magcache.emoji import image as emoji
from magcache.emoji import keywords
from tools.train_emoji import model as training

SPLITS = {"calibration": 8, "test": 96, "demo": 8}


@pytest.fixture(scope="module")
def folder():
    try:
        return keywords.find_folder("emoji")
    except FileNotFoundError as error:
        pytest.skip(f"the trained model has not been exported: {error}")


@pytest.fixture(scope="module")
def model(folder):
    return emoji.load(folder)


def random_images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_flux_packs_latents_as_training_did():
    latents = torch.randn(2, 16, 16, 16)
    latents[:, 12:] = 0
    images = torch.nn.functional.pixel_shuffle(latents[:, :12], 2)
    packed = FluxPipeline._pack_latents(latents, 2, 16, 16, 16)
    assert torch.equal(packed, training.to_patches(images))


def test_decoding_inverts_the_packing_of_training():
    images = random_images()
    decoded = emoji.to_images(training.to_patches(images))
    assert torch.allclose(decoded * 2 - 1, images, atol=1e-6)


def test_decoding_clamps_to_displayable_colours():
    decoded = emoji.to_images(training.to_patches(random_images() * 3))
    assert decoded.min() == 0 and decoded.max() == 1


def test_flux_numbers_patches_as_training_did():
    ids = FluxPipeline._prepare_latent_image_ids(1, 8, 8, "cpu", torch.float32)
    assert torch.equal(ids, training.image_ids())


def test_pipeline_hands_the_transformer_what_training_did(model):
    seen = {}

    def look(module, args, kwargs):
        seen.update(kwargs)

    hook = model.pipe.transformer.register_forward_pre_hook(look, with_kwargs=True)
    model.generate(["dog face"], [0], steps=4, cfg=1)
    hook.remove()
    assert torch.equal(seen["img_ids"], training.image_ids())
    assert torch.equal(seen["txt_ids"], torch.zeros(8, 3))
    assert seen["timestep"].tolist() == [0.25]
    assert seen["guidance"] is None


def test_encoding_pads_to_eight_tokens_and_pools_their_mean(model):
    embeds, pooled = model.encode(["dog face", ""])
    assert embeds.shape == (2, 8, 128) and pooled.shape == (2, 128)
    assert torch.equal(embeds[0, 2:], embeds[1, 2:])
    assert torch.equal(pooled, embeds.mean(1))


def test_unknown_word_is_named_with_its_neighbours(model):
    with pytest.raises(ValueError, match=r"'strawbery'.*strawberry"):
        model.encode(["strawbery"])


def test_word_far_from_all_is_named_too(model):
    with pytest.raises(ValueError, match="'qqqq'"):
        model.encode(["qqqq"])


def test_nine_words_are_too_many(model):
    with pytest.raises(ValueError, match="9 words"):
        model.encode(["dog " * 9])


def test_seeds_must_match_prompts(model):
    with pytest.raises(ValueError, match="2 prompts"):
        model.generate(["dog", "cat"], [0])


def test_splits_are_disjoint_and_every_prompt_encodes(model):
    splits = {name: model.prompts(name) for name in (*SPLITS, "other")}
    assert {name: len(splits[name]) for name in SPLITS} == SPLITS
    for first, second in combinations(splits.values(), 2):
        assert not set(first) & set(second)
    every = [prompt for prompts in splits.values() for prompt in prompts]
    assert model.encode(every)[0].shape == (len(every), 8, 128)


def test_unknown_split_is_refused(model):
    with pytest.raises(ValueError, match="calibration, test, demo, other"):
        model.prompts("training")


def test_weights_fit_in_16_megabytes(folder):
    assert (folder / keywords.WEIGHTS["emoji"]).stat().st_size <= 16_000_000


def test_weights_file_holds_the_transformer_and_nothing_else(folder):
    with torch.device("meta"):
        expected = FluxTransformer2DModel(**training.CONFIG).state_dict()
    with safe_open(folder / keywords.WEIGHTS["emoji"], "pt") as weights:
        names = weights.keys()
        assert set(names) == set(expected)
        assert {weights.get_tensor(name).dtype for name in names} == {torch.bfloat16}


def test_diffusers_loads_the_folder_without_magcache(folder, model):
    plain, info = FluxTransformer2DModel.from_pretrained(
        folder, torch_dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values())
    for name, weight in model.pipe.transformer.state_dict().items():
        assert torch.equal(weight, plain.state_dict()[name])


def test_images_depend_on_seed_and_prompt_alone_and_repeat(model):
    first = model.generate(["dog face", "dog face"], [0, 1], steps=2)
    again = model.generate(["dog face"], [0], steps=2)
    assert first.shape == (2, 3, 32, 32)
    assert torch.allclose(first[:1], again, atol=1e-4)
    assert not torch.allclose(first[0], first[1], atol=1e-2)


def test_missing_model_says_where_it_was_sought(monkeypatch, tmp_path):
    monkeypatch.setattr(keywords, "__file__", str(tmp_path / "magcache" / "keywords.py"))
    with pytest.raises(FileNotFoundError, match="models"):
        keywords.find_folder("emoji")


def test_newer_format_is_refused(tmp_path):
    (tmp_path / keywords.DESCRIPTION).write_text('{"format": 2}')
    with pytest.raises(ValueError, match="update MagCache"):
        emoji.load(tmp_path)
