"""Trains the U-Net on a GPU for a given time, with all data on the GPU.

python -m tools.train_emoji.data
python -m tools.train_unet.train --seconds 330 --cooldown 200 --folder tools/train_unet
"""

from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from tools import training
from tools.train_emoji import data as artwork
from tools.train_emoji.train import Batches, vocabulary_of
from tools.train_unet import data
from tools.train_unet.model import UNetModel, to_latents


def train(
    seconds: float, cooldown: float, folder: Path, batch: int, lr: float, device: str
) -> None:
    emoji = artwork.load()
    batches = Batches(emoji, batch, device)
    art = data.load().to(device)
    model = UNetModel(len(vocabulary_of(emoji))).to(device)
    torch.backends.cudnn.benchmark = True
    for module in model.unet.modules():
        if isinstance(module, nn.GroupNorm):
            setattr(module, "forward", partial(normalise, module))  # noqa: B010

    def draw_loss() -> torch.Tensor:
        vendor, prompt, words = batches.draw()
        scale = 1 - (1 - data.SMALLEST) * torch.rand(batch, device=device)
        shift = torch.rand(batch, 2, device=device) * 2 - 1
        pictures = data.draw(art[vendor, prompt], scale, shift)
        return model.loss(to_latents(pictures), words)

    length = training.Length(seconds, cooldown, timed=True)
    training.train(model, draw_loss, folder, length=length, batch=batch, lr=lr, muon=False)


def normalise(norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    """Group norm in the dtype of `x`. Autocast's float32 would take half of the training time."""
    with torch.autocast(x.device.type, enabled=False):
        weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
        return F.group_norm(x, norm.num_groups, weight, bias, norm.eps)


if __name__ == "__main__":
    options = training.device_options(__doc__, batch=512, lr=1e-3)
    train(**vars(options.parse_args()))
