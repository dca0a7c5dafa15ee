"""The small trained video model: Wan 2.1's architecture, animated emoji of 8 frames of 32x32.

`load()` gives a real `diffusers.WanPipeline` without autoencoder and text encoder. A latent frame
holds an RGB frame in 16 channels, described in `models/emoji-video/emoji.json`. A prompt is up to
eight keywords from a table of embeddings.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from torch.nn import functional as F

from . import keywords
from .model import EmojiPipeline, pipeline

FRAMES = 8
_ABSENT = ("vae", "text_encoder", "tokenizer")


class EmojiVideoModel(EmojiPipeline):
    """Draws clips (B, 3, 8, 32, 32)."""

    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        """Token embeddings (B, 8, 4096)."""
        return self.words.embed(prompts, keywords.WAN_WIDTH).to(self.pipe.device)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """See `to_clips`."""
        return to_clips(latents)

    def _conditions(self, prompts: Sequence[str], cfg: float) -> dict[str, Any]:
        return {
            "prompt_embeds": self.encode(prompts),
            "negative_prompt_embeds": self.encode([""] * len(prompts)),
            "guidance_scale": cfg,
            "num_frames": 4 * (FRAMES - 1) + 1,  # a latent frame covers four, except the first
        }


def load(
    folder: Path | None = None, shift: float = 3.0, device: torch.device | str = "cpu"
) -> EmojiVideoModel:
    """Loads the model in float32 from `folder`, by default the one in the repository.

    `shift` is the shift of the flow-matching scheduler. Raises FileNotFoundError if the files are
    missing, ValueError if their format is newer.
    """
    folder = folder or keywords.find_folder("emoji-video")
    words = keywords.read(folder)
    weights = str(folder / keywords.WEIGHTS["emoji-video"])
    transformer = WanTransformer3DModel.from_single_file(
        weights, config=str(folder), torch_dtype=torch.float32, local_files_only=True
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    parts = {"transformer": transformer, "scheduler": scheduler}
    return EmojiVideoModel(pipeline(WanPipeline, _ABSENT, device, **parts), words)


def to_clips(latents: torch.Tensor) -> torch.Tensor:
    """Latents (B, 16, F, 16, 16) to RGB (B, 3, F, 32, 32), clamped to [0, 1]."""
    frames = F.pixel_shuffle(latents.transpose(1, 2)[:, :, :12], 2)
    return (frames.transpose(1, 2) / 2 + 0.5).clamp(0, 1)
