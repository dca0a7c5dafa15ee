"""Two nodes that let ComfyUI sample the small emoji model of MagCache. Not part of the pack.

Copy or link this folder into ComfyUI's `custom_nodes/`, and the repository's `models/emoji/` into
ComfyUI's `models/diffusion_models/`. An image is a latent of 16x16 with 16 channels, which is an
`EmptySD3LatentImage` of 128x128; a prompt is up to eight keywords.
"""

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from torch.nn import functional as F

TOKENS = 8
_SHIFT, _SCALE = 0.1159, 0.3611  # ComfyUI's latent format of FLUX, which this model does not have


@cache
def _table() -> tuple[list[str], torch.Tensor]:
    """The words and their embeddings; word 0 is the padding.

    Raises FileNotFoundError if emoji/emoji.json lies in no folder of diffusion models.
    """
    folders = [Path(folder) for folder in folder_paths.get_folder_paths("diffusion_models")]
    for path in (folder / "emoji" / "emoji.json" for folder in folders):
        if path.is_file():
            description = json.loads(path.read_text(encoding="utf-8"))
            kept = description["embedding"]
            values = np.frombuffer(base64.b64decode(kept["base64"]), dtype="<f2")
            table = values.reshape(kept["shape"]).astype(np.float32)
            return description["vocabulary"], torch.from_numpy(table)
    raise FileNotFoundError(f"emoji/emoji.json is in none of {', '.join(map(str, folders))}")


class EmojiPrompt:
    """Keywords to conditioning."""

    CATEGORY = "MagCache/demo"
    FUNCTION = "encode"
    RETURN_TYPES = ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = "Up to eight keywords; nothing is the unconditional prompt."
        return {"required": {"keywords": ("STRING", {"default": "fox face", "tooltip": tooltip})}}

    def encode(self, keywords: str) -> tuple[list[Any]]:
        vocabulary, table = _table()
        words = keywords.lower().split()
        unknown = [word for word in words if word not in vocabulary]
        if unknown or len(words) > TOKENS:
            problem = f"does not know {', '.join(unknown)}" if unknown else "reads eight words"
            raise ValueError(f"the emoji model {problem}; it knows {', '.join(vocabulary[1:])}")
        indices = [vocabulary.index(word) for word in words] + [0] * (TOKENS - len(words))
        embeds = table[torch.tensor([indices])]
        return ([[embeds, {"pooled_output": embeds.mean(1)}]],)


class EmojiDecode:
    """The model's latent to an image."""

    CATEGORY = "MagCache/demo"
    FUNCTION = "decode"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT",)}}

    def decode(self, samples: dict[str, torch.Tensor]) -> tuple[torch.Tensor]:
        latents = (samples["samples"].float() - _SHIFT) * _SCALE
        image = (F.pixel_shuffle(latents[:, :12], 2) / 2 + 0.5).clamp(0, 1)
        return (image.movedim(1, -1),)


NODE_CLASS_MAPPINGS = {"EmojiPrompt": EmojiPrompt, "EmojiDecode": EmojiDecode}
NODE_DISPLAY_NAME_MAPPINGS = {"EmojiPrompt": "Emoji Prompt", "EmojiDecode": "Emoji Decode"}
