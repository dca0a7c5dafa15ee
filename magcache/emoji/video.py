"""The small trained video model: Wan 2.1's architecture, animated emoji of 8 frames of 32x32.

`load()` gives a real `diffusers.WanPipeline` without autoencoder and text encoder. A latent frame
is an RGB frame of 16 channels (`models/emoji-video/emoji.json` says which), a prompt is up to
eight keywords from a table of embeddings. The core never imports this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from torch.nn import functional as F

from . import keywords
from .keywords import Keywords

WEIGHTS = "wan2.1_emoji_video.safetensors"  # under Wan's own names, which ComfyUI reads too
FRAMES = 8
TEXT_WIDTH = 4096  # Wan's; a word's 128 numbers come first, the others are zero
ABSENT = ("vae", "text_encoder", "tokenizer")


@dataclass(frozen=True)
class EmojiVideoModel:
    """A pipeline, and the words that stand in for its text encoder."""

    pipe: WanPipeline
    words: Keywords

    def prompts(self, split: str) -> list[str]:
        """Its fixed sets of prompts, see `Keywords.prompts`."""
        return self.words.prompts(split)

    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        """Token embeddings (B, 8, 4096).

        A prompt is a bag of words; "" is the unconditional one. Raises ValueError for a word
        that the model has not learnt, and for more than eight words.
        """
        embeds = self.words.embed(prompts)
        return F.pad(embeds, (0, TEXT_WIDTH - embeds.shape[-1])).to(self.pipe.device)

    def arguments(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int = 28, cfg: float = 3.0
    ) -> dict[str, Any]:
        """The arguments of `pipe` for one clip a prompt, each with its own seed.

        `cfg` is classifier-free guidance, two calls an evaluation; 1 turns it off. The pipeline
        returns latents (B, 16, 8, 16, 16), which `to_clips` decodes. Raises ValueError if there
        is not one seed a prompt.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        return {
            "prompt_embeds": self.encode(prompts),
            "negative_prompt_embeds": self.encode([""] * len(prompts)),
            "guidance_scale": cfg,
            "height": 128,  # the pipeline takes a latent pixel for 8x8 pixels, here it is 2x2
            "width": 128,
            "num_frames": 4 * (FRAMES - 1) + 1,  # and a latent frame for four, but for the first
            "num_inference_steps": steps,
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "output_type": "latent",
        }

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int = 28, cfg: float = 3.0
    ) -> torch.Tensor:
        """Clips (B, 3, 8, 32, 32), RGB in [0, 1]; takes and raises what `arguments` does."""
        output: Any = self.pipe(**self.arguments(prompts, seeds, steps, cfg))
        return to_clips(output.frames)


def load(
    folder: Path | None = None, shift: float = 3.0, device: torch.device | str = "cpu"
) -> EmojiVideoModel:
    """Loads the model in float32 from `folder`, by default the one that comes with MagCache.

    `shift` is the flow-matching scheduler's. Raises FileNotFoundError without the files,
    ValueError if they are of a newer format.
    """
    folder = folder or keywords.find_folder("emoji-video", WEIGHTS)
    words = keywords.read(folder)
    transformer = WanTransformer3DModel.from_single_file(
        str(folder / WEIGHTS), config=str(folder), torch_dtype=torch.float32, local_files_only=True
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    absent: dict[str, Any] = dict.fromkeys(ABSENT)
    pipe = WanPipeline(scheduler=scheduler, transformer=transformer, **absent)
    pipe.set_progress_bar_config(disable=True)
    return EmojiVideoModel(pipe.to(device), words)


def to_clips(latents: torch.Tensor) -> torch.Tensor:
    """Latents (B, 16, F, 16, 16) to RGB (B, 3, F, 32, 32), clamped to [0, 1]."""
    frames = F.pixel_shuffle(latents.transpose(1, 2)[:, :, :12], 2)
    return (frames.transpose(1, 2) / 2 + 0.5).clamp(0, 1)
