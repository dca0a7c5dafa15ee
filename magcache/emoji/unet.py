"""The small trained U-Net: SDXL's architecture, 32x32 emoji with transparency.

`load()` gives a real `diffusers.StableDiffusionXLPipeline` without autoencoder and text encoders.
A latent holds the colours and the alpha of an image, described in `models/emoji-unet/emoji.json`.
A prompt is up to eight keywords from a table of embeddings. The wheel does not contain the model,
see `keywords.find_folder`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

from . import keywords
from .model import EmojiPipeline, pipeline

SIDE = 32
LATENT_MEAN = (0.75, 0.6, 0.45, 0.0)  # of red, green, blue and alpha in [-1, 1]
LATENT_STD = (0.45, 0.5, 0.65, 1.0)
_ABSENT = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


class EmojiUNet(EmojiPipeline):
    """Draws images (B, 3, 32, 32), best with `cfg=5`."""

    side: ClassVar[int] = 8 * SIDE  # the pipeline assumes 8x8 pixels per latent pixel, here it is 1

    def encode(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token embeddings (B, 8, 128) and their mean, the pooled embedding (B, 128)."""
        embeds = self.words.embed(prompts).to(self.pipe.device)
        return embeds, embeds.mean(1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The colours of `to_images`, without alpha."""
        return to_images(latents)[:, :3]

    def _conditions(self, prompts: Sequence[str], cfg: float) -> dict[str, Any]:
        embeds, pooled = self.encode(prompts)
        no_embeds, no_pooled = self.encode([""] * len(prompts))
        return {
            "prompt_embeds": embeds,
            "pooled_prompt_embeds": pooled,
            "negative_prompt_embeds": no_embeds,
            "negative_pooled_prompt_embeds": no_pooled,
            "guidance_scale": cfg,
        }


def load(folder: Path | None = None, device: torch.device | str = "cpu") -> EmojiUNet:
    """Loads the model in float32 from `folder`, by default the one in the repository.

    The scheduler is SDXL's default, Euler. Raises FileNotFoundError if the files are missing,
    ValueError if their format is newer.
    """
    folder = folder or keywords.find_folder("emoji-unet")
    words = keywords.read(folder)
    unet = UNet2DConditionModel.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    parts = {"unet": unet, "scheduler": scheduler, "add_watermarker": False}
    return EmojiUNet(pipeline(StableDiffusionXLPipeline, _ABSENT, device, **parts), words)


def to_images(latents: torch.Tensor) -> torch.Tensor:
    """Latents (B, 4, 32, 32) to RGB on white plus alpha, (B, 4, 32, 32) in [0, 1]."""
    mean, std = (
        torch.tensor(values, device=latents.device).reshape(4, 1, 1)
        for values in (LATENT_MEAN, LATENT_STD)
    )
    return ((latents * std + mean) / 2 + 0.5).clamp(0, 1)
