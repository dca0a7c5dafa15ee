"""The small trained model that demo, tests and benches run on: FLUX's architecture, 32x32 emoji.

`load()` gives a real `diffusers.FluxPipeline` without autoencoder and text encoders. An image is
a latent of 16 channels (`models/emoji/emoji.json` says which), a prompt is up to eight keywords
from a table of embeddings. The core never imports this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch.nn import functional as F

from . import keywords
from .keywords import Keywords

WEIGHTS = "diffusion_pytorch_model.safetensors"
ABSENT = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


@dataclass(frozen=True)
class EmojiModel:
    """A pipeline, and the words that stand in for its text encoders."""

    pipe: FluxPipeline
    words: Keywords

    def prompts(self, split: str) -> list[str]:
        """Its fixed sets of prompts, see `Keywords.prompts`."""
        return self.words.prompts(split)

    def encode(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token embeddings (B, 8, 128) and their mean, the pooled embedding (B, 128).

        A prompt is a bag of words; "" is the unconditional one. Raises ValueError for a word
        that the model has not learnt, and for more than eight words.
        """
        embeds = self.words.embed(prompts).to(self.pipe.device)
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


def find_folder() -> Path:
    """The model's folder; raises FileNotFoundError with the places that were looked at."""
    return keywords.find_folder("emoji", WEIGHTS)


def load(
    folder: Path | None = None, shift: float = 1.0, device: torch.device | str = "cpu"
) -> EmojiModel:
    """Loads the model in float32 from `folder`, by default the one that comes with MagCache.

    `shift` is the flow-matching scheduler's; the model was trained with 1. Raises
    FileNotFoundError without the files, ValueError if they are of a newer format.
    """
    folder = folder or find_folder()
    words = keywords.read(folder)
    transformer = FluxTransformer2DModel.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    absent: dict[str, Any] = dict.fromkeys(ABSENT)
    pipe = FluxPipeline(scheduler=scheduler, transformer=transformer, **absent)
    pipe.set_progress_bar_config(disable=True)
    return EmojiModel(pipe.to(device), words)


def to_images(packed: torch.Tensor) -> torch.Tensor:
    """Packed latents (B, 64, 64) of the pipeline to RGB (B, 3, 32, 32), clamped to [0, 1].

    Both FLUX's packing and the model's latent are space-to-depth by 2 in the order
    (channel, row, column), so both are undone by a pixel shuffle.
    """
    latents = F.pixel_shuffle(packed.transpose(1, 2).unflatten(2, (8, 8)), 2)
    return (F.pixel_shuffle(latents[:, :12], 2) / 2 + 0.5).clamp(0, 1)
