"""The small trained model that demo, tests and benches run on: FLUX's architecture, 32x32 emoji.

`load()` gives a real `diffusers.FluxPipeline` without autoencoder and text encoders. An image is
a latent of 16 channels (`models/emoji/emoji.json` says which), a prompt is up to eight keywords
from a table of embeddings. The core never imports this module.
"""

import base64
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch.nn import functional as F

FORMAT = 1
TEXT_TOKENS = 8
WEIGHTS = "diffusion_pytorch_model.safetensors"
DESCRIPTION = "emoji.json"
ABSENT = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


@dataclass(frozen=True)
class EmojiModel:
    """A pipeline and what stands in for its text encoders.

    `table` (words, 128) holds the embedding of each word of `vocabulary`, whose word 0 is the
    padding; `splits` the fixed sets of prompts; `training` the steps, loss and date of the run.
    """

    pipe: FluxPipeline
    vocabulary: list[str]
    table: torch.Tensor
    splits: dict[str, list[str]]
    training: dict[str, Any]

    def prompts(self, split: str) -> list[str]:
        """The prompts of "calibration", "test", "demo" or "other"; no prompt is in two.

        Raises ValueError for any other split.
        """
        if split not in self.splits:
            raise ValueError(f"unknown split {split!r}: choose one of {', '.join(self.splits)}")
        return list(self.splits[split])

    def encode(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token embeddings (B, 8, 128) and their mean, the pooled embedding (B, 128).

        A prompt is a bag of words; "" is the unconditional one. Raises ValueError for a word
        that the model has not learnt, and for more than eight words.
        """
        index = torch.tensor([self._word_indices(prompt) for prompt in prompts])
        embeds = self.table[index].to(self.pipe.device)
        return embeds, embeds.mean(1)

    def arguments(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int = 28, cfg: float = 3.0
    ) -> dict[str, Any]:
        """The arguments of `pipe` for one 32x32 image a prompt, each with its own seed.

        `cfg` is true classifier-free guidance, two evaluations a step; 1 turns it off. The
        pipeline returns packed latents (B, 64, 64), which `to_images` decodes. Raises ValueError
        if there is not one seed a prompt.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        embeds, pooled = self.encode(prompts)
        no_embeds, no_pooled = self.encode([""] * len(prompts))
        return {
            "prompt_embeds": embeds,
            "pooled_prompt_embeds": pooled,
            "negative_prompt_embeds": no_embeds,
            "negative_pooled_prompt_embeds": no_pooled,
            "true_cfg_scale": cfg,
            "height": 128,  # the pipeline takes a latent pixel for 8x8 pixels, here it is 2x2
            "width": 128,
            "num_inference_steps": steps,
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "output_type": "latent",
        }

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int = 28, cfg: float = 3.0
    ) -> torch.Tensor:
        """Images (B, 3, 32, 32), RGB in [0, 1]; takes and raises what `arguments` does."""
        output: Any = self.pipe(**self.arguments(prompts, seeds, steps, cfg))
        return to_images(output.images)

    def _word_indices(self, prompt: str) -> list[int]:
        words = prompt.lower().split()
        if len(words) > TEXT_TOKENS:
            raise ValueError(
                f"{prompt!r} has {len(words)} words, the model reads at most {TEXT_TOKENS}"
            )
        for word in words:
            if word not in self.vocabulary:
                near = difflib.get_close_matches(word, self.vocabulary)
                hint = f"did you mean {' or '.join(near)}?" if near else "none is near it"
                raise ValueError(f"the emoji model does not know the word {word!r}: {hint}")
        indices = [self.vocabulary.index(word) for word in words]
        return indices + [0] * (TEXT_TOKENS - len(indices))


def find_folder() -> Path:
    """The model's folder in an installed package or in a checkout.

    Raises FileNotFoundError with the places that were looked at.
    """
    package = Path(__file__).parent
    places = [package / "models" / "emoji", package.parent / "models" / "emoji"]
    for place in places:
        if (place / DESCRIPTION).exists() and (place / WEIGHTS).exists():
            return place
    looked = " nor ".join(str(place) for place in places)
    raise FileNotFoundError(
        f"the emoji model is neither in {looked}; reinstall magcache, or in a checkout "
        "run `git checkout models/emoji`"
    )


def load(
    folder: Path | None = None, shift: float = 1.0, device: torch.device | str = "cpu"
) -> EmojiModel:
    """Loads the model in float32 from `folder`, by default the one that comes with MagCache.

    `shift` is the flow-matching scheduler's; the model was trained with 1. Raises
    FileNotFoundError without the files, ValueError if they are of a newer format.
    """
    folder = folder or find_folder()
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if description["format"] != FORMAT:
        raise ValueError(
            f"{folder / DESCRIPTION} has format {description['format']}, this version of "
            f"MagCache reads {FORMAT}: update MagCache"
        )
    transformer = FluxTransformer2DModel.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    absent: dict[str, Any] = dict.fromkeys(ABSENT)
    pipe = FluxPipeline(scheduler=scheduler, transformer=transformer, **absent)
    pipe.set_progress_bar_config(disable=True)
    return EmojiModel(
        pipe=pipe.to(device),
        vocabulary=description["vocabulary"],
        table=_table_of(description["embedding"]),
        splits=_splits_of(description),
        training=description["training"],
    )


def to_images(packed: torch.Tensor) -> torch.Tensor:
    """Packed latents (B, 64, 64) of the pipeline to RGB (B, 3, 32, 32), clamped to [0, 1].

    Both FLUX's packing and the model's latent are space-to-depth by 2 in the order
    (channel, row, column), so both are undone by a pixel shuffle.
    """
    latents = F.pixel_shuffle(packed.transpose(1, 2).unflatten(2, (8, 8)), 2)
    return (F.pixel_shuffle(latents[:, :12], 2) / 2 + 0.5).clamp(0, 1)


def _table_of(embedding: dict[str, Any]) -> torch.Tensor:
    values = np.frombuffer(base64.b64decode(embedding["base64"]), dtype="<f2")
    return torch.from_numpy(values.reshape(embedding["shape"]).astype(np.float32))


def _splits_of(description: dict[str, Any]) -> dict[str, list[str]]:
    splits = description["splits"]
    listed = {prompt for prompts in splits.values() for prompt in prompts}
    return {**splits, "other": [p for p in description["prompts"] if p not in listed]}
