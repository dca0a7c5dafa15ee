"""The emoji model distilled: four to eight steps, or even two, and no guidance (CFG 1).

It is loaded and used as the emoji model (`image`) is. The wheel comes without it, see
`keywords.find_folder`.
"""

from pathlib import Path

import torch

from . import image, keywords


def load(
    folder: Path | None = None, shift: float = 1.0, device: torch.device | str = "cpu"
) -> image.EmojiModel:
    """Loads the model as `image.load` does; sample it with `cfg=1`."""
    return image.load(folder or keywords.find_folder("emoji-turbo"), shift, device)
