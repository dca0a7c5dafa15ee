"""What diffusers makes of one denoising call, for tests where it is not installed.

    python -m tests.denoised

Writes denoised.safetensors; after a new training of emoji-unet or emoji-turbo it has to be run.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

FILE = Path(__file__).with_suffix(".safetensors")
PROMPT = "fox face"
STEP, SIGMA = 300, 0.6  # of the U-Net and of the distilled model


def stored() -> dict[str, torch.Tensor]:
    """Of "unet" and "turbo": "NAME.noisy", a latent, and "NAME.denoised"."""
    return load_file(FILE)


def made() -> dict[str, torch.Tensor]:
    """What `stored` holds, by the diffusers that is installed."""
    generator = torch.Generator().manual_seed(0)
    unet = torch.randn(1, 4, 32, 32, generator=generator)
    turbo = torch.randn(1, 16, 16, 16, generator=generator)
    return {
        "unet.noisy": unet,
        "unet.denoised": _by_unet(unet),
        "turbo.noisy": turbo,
        "turbo.denoised": _by_turbo(turbo),
    }


@torch.no_grad()
def _by_unet(noisy: torch.Tensor) -> torch.Tensor:
    from magcache.emoji import unet

    model = unet.load()
    embeds, pooled = model.encode([PROMPT])
    kept = model.pipe.scheduler.alphas_cumprod[STEP]
    sigma = ((1 - kept) / kept).sqrt()
    sizes = torch.tensor([[256.0, 256, 0, 0, 256, 256]])
    extra = {"text_embeds": pooled, "time_ids": sizes}
    scaled = noisy / (sigma**2 + 1).sqrt()
    return noisy - sigma * model.pipe.unet(scaled, STEP, embeds, added_cond_kwargs=extra).sample


@torch.no_grad()
def _by_turbo(noisy: torch.Tensor) -> torch.Tensor:
    from magcache.emoji import turbo

    model = turbo.load()
    pipe = model.pipe
    embeds, pooled = model.encode([PROMPT])
    velocity = pipe.transformer(
        hidden_states=F.pixel_unshuffle(noisy, 2).flatten(2).transpose(1, 2),
        encoder_hidden_states=embeds,
        pooled_projections=pooled,
        timestep=torch.tensor([SIGMA]),
        img_ids=pipe._prepare_latent_image_ids(1, 8, 8, "cpu", torch.float32),
        txt_ids=torch.zeros(8, 3),
    ).sample
    unpacked = F.pixel_shuffle(velocity.transpose(1, 2).unflatten(2, (8, 8)), 2)
    return noisy - SIGMA * unpacked


if __name__ == "__main__":
    save_file({name: tensor.contiguous() for name, tensor in made().items()}, FILE)
