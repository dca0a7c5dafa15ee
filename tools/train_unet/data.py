"""The emoji model's artwork with transparency, slightly shifted and scaled for each sample.

The artwork comes from `tools.train_emoji.data`. It is read at 64x64 and drawn at 32x32.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from tools.train_emoji.data import ARTWORK, SIZE, VENDORS, choose

SMALLEST = 0.85


def load(folder: Path = ARTWORK) -> torch.Tensor:
    """(vendors, prompts, 4, 64, 64) in [0, 1]: RGB premultiplied by alpha, and alpha."""
    names = [name for _, name in choose(folder)]
    images = [
        [np.asarray(Image.open(folder / v / "64" / name).convert("RGBA")) for name in names]
        for v in VENDORS
    ]
    art = torch.from_numpy(np.array(images)).movedim(-1, -3).float() / 255
    return torch.cat([art[..., :3, :, :] * art[..., 3:, :, :], art[..., 3:, :, :]], -3)


def draw(art: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 4, 32, 32) in [-1, 1]: colours on white, and alpha.

    `art` (B, 4, 64, 64) comes from `load`. `scale` (B,) is the artwork's size relative to the
    picture, `shift` (B, 2) in [-1, 1] its position within the margin.
    """
    margin = (1 - scale)[:, None]
    place = torch.zeros(len(art), 2, 3, device=art.device)
    place[:, 0, 0] = place[:, 1, 1] = 1 / scale
    place[:, :, 2] = -shift * margin / scale[:, None]
    grid = F.affine_grid(place, [len(art), 4, 2 * SIZE, 2 * SIZE], align_corners=False)
    picture = F.avg_pool2d(F.grid_sample(art, grid, align_corners=False), 2)
    white = picture[:, :3] + 1 - picture[:, 3:]
    return torch.cat([white, picture[:, 3:]], 1) * 2 - 1
