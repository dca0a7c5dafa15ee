"""The distilled emoji model: four to eight steps, or even two, without guidance (CFG 1).

Load and use it like the emoji model (`image`). The wheel does not contain it, see
`keywords.find_folder`.
"""

from pathlib import Path

import torch

from . import image, keywords


def load(
    folder: Path | None = None, shift: float = 1.0, device: torch.device | str = "cpu"
) -> image.EmojiModel:
    """Loads the model like `image.load`. Sample it with `cfg=1`."""
    return image.load(folder or keywords.find_folder("emoji-turbo"), shift, device)
