"""The network: diffusers' own SDXL U-Net at toy size, and a keyword embedding."""

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from magcache.emoji.unet import LATENT_MEAN, LATENT_STD, SIDE
from tools import training
from tools.train_emoji.model import TEXT_WIDTH

TIME_IDS = (8 * SIDE, 8 * SIDE, 0, 0, 8 * SIDE, 8 * SIDE)
"""Sizes and crop that both hosts pass for a latent of 32x32, regardless of the sample."""
CONFIG = {
    "sample_size": SIDE,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (64, 64, 64),
    "layers_per_block": 2,
    "transformer_layers_per_block": 1,
    "attention_head_dim": (2, 2, 2),  # the number of heads, despite SDXL's name for it
    "cross_attention_dim": TEXT_WIDTH,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": TEXT_WIDTH + 6 * 256,
}
STEPS = 1000


class UNetModel(nn.Module):
    """Predicts the noise of a variance-preserving path.

    Word 0 of the vocabulary is padding; a prompt of padding alone is the unconditional one.
    """

    kept: torch.Tensor

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, TEXT_WIDTH)
        self.unet = UNet2DConditionModel(**CONFIG)
        self.register_buffer("kept", kept_signal(), persistent=False)

    def forward(self, x: torch.Tensor, words: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """`x` (B, 4, 32, 32), `words` (B, 8) vocabulary indices, `step` (B,) of 1000."""
        text = self.words(words)
        ids = torch.tensor(TIME_IDS, dtype=torch.float32, device=x.device).expand(len(x), -1)
        return self.unet(
            x,
            step,
            text,
            added_cond_kwargs={"text_embeds": text.mean(1), "time_ids": ids},
            return_dict=False,
        )[0]

    def loss(self, clean: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the noise at random steps, weighted like that of the velocity.

        `clean` (B, 4, 32, 32). The weight is 1 / ᾱ, limited to 100, because the last steps are
        almost pure noise.
        """
        step = torch.randint(STEPS, (len(clean),), device=clean.device)
        kept = self.kept[step].reshape(-1, 1, 1, 1)
        noise = torch.randn_like(clean)
        with training.half_precision(clean.device):
            predicted = self(kept.sqrt() * clean + (1 - kept).sqrt() * noise, words, step)
        error = (predicted.float() - noise).square() / kept.clamp(min=0.01)
        return error.mean()


def kept_signal() -> torch.Tensor:
    """ᾱ of SDXL's 1000 steps: the square roots of its betas are evenly spaced."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64).square()
    return (1 - betas).cumprod(0).float()


def to_latents(pictures: torch.Tensor) -> torch.Tensor:
    """Colours and alpha (B, 4, 32, 32) in [-1, 1] to latents with mean 0 and deviation 1."""
    mean, std = (
        torch.tensor(values, device=pictures.device).reshape(4, 1, 1)
        for values in (LATENT_MEAN, LATENT_STD)
    )
    return (pictures - mean) / std
