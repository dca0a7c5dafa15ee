"""The small trained image model: FLUX's architecture, 32x32 emoji.

`load()` gives a real `diffusers.FluxPipeline` without autoencoder and text encoders. An image is
a latent of 16 channels, described in `models/emoji/emoji.json`. A prompt is up to eight keywords
from a table of embeddings.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch.nn import functional as F

from . import keywords
from .model import EmojiPipeline, pipeline

_ABSENT = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


class EmojiModel(EmojiPipeline):
    """Draws images (B, 3, 32, 32)."""

    def encode(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token embeddings (B, 8, 128) and their mean, the pooled embedding (B, 128)."""
        embeds = self.words.embed(prompts).to(self.pipe.device)
        return embeds, embeds.mean(1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """See `to_images`."""
        return to_images(latents)

    def _conditions(self, prompts: Sequence[str], cfg: float) -> dict[str, Any]:
        embeds, pooled = self.encode(prompts)
        no_embeds, no_pooled = self.encode([""] * len(prompts))
        return {
            "prompt_embeds": embeds,
            "pooled_prompt_embeds": pooled,
            "negative_prompt_embeds": no_embeds,
            "negative_pooled_prompt_embeds": no_pooled,
            "true_cfg_scale": cfg,
        }


def load(
    folder: Path | None = None, shift: float = 1.0, device: torch.device | str = "cpu"
) -> EmojiModel:
    """Loads the model in float32 from `folder`, by default the one that ships with MagCache.

    `shift` is the shift of the flow-matching scheduler; the model was trained with 1. Raises
    FileNotFoundError if the files are missing, ValueError if their format is newer.
    """
    folder = folder or keywords.find_folder("emoji")
    words = keywords.read(folder)
    transformer = FluxTransformer2DModel.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    parts = {"transformer": transformer, "scheduler": scheduler}
    return EmojiModel(pipeline(FluxPipeline, _ABSENT, device, **parts), words)


def to_images(packed: torch.Tensor) -> torch.Tensor:
    """Packed latents (B, 64, 64) of the pipeline to RGB (B, 3, 32, 32), clamped to [0, 1].

    Both FLUX's packing and the model's latent are space-to-depth by 2 in the order
    (channel, row, column), so a pixel shuffle undoes each.
    """
    latents = F.pixel_shuffle(packed.transpose(1, 2).unflatten(2, (8, 8)), 2)
    return (F.pixel_shuffle(latents[:, :12], 2) / 2 + 0.5).clamp(0, 1)
