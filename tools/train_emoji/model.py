"""The network: diffusers' own FLUX transformer at toy size, and a keyword embedding."""

import torch
from diffusers import FluxTransformer2DModel
from torch import nn
from torch.nn import functional as F

TEXT_TOKENS = 8
TEXT_WIDTH = 128
CONFIG = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 1,
    "num_single_layers": 5,
    "attention_head_dim": 128,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT_WIDTH,
    "pooled_projection_dim": TEXT_WIDTH,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
}


class EmojiModel(nn.Module):
    """Predicts the velocity `noise - image` of a flow-matching path.

    Word 0 of the vocabulary is padding; a prompt of padding alone is the unconditional one.
    """

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, TEXT_WIDTH)
        self.transformer = FluxTransformer2DModel(**CONFIG)

    def forward(self, x: torch.Tensor, words: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """`x` (B, 64, 64) patches, `words` (B, 8) vocabulary indices, `sigma` (B,) in [0, 1]."""
        text = self.words(words)
        return self.transformer(
            hidden_states=x,
            encoder_hidden_states=text,
            pooled_projections=text.mean(1),
            timestep=sigma,
            img_ids=image_ids().to(x.device),
            txt_ids=torch.zeros(TEXT_TOKENS, 3, device=x.device),
            return_dict=False,
        )[0]


def image_ids() -> torch.Tensor:
    """Row and column of each of the 8x8 patches, like in FLUX's pipeline."""
    ids = torch.zeros(8, 8, 3)
    ids[..., 1] = torch.arange(8)[:, None]
    ids[..., 2] = torch.arange(8)[None, :]
    return ids.reshape(64, 3)


def to_patches(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, 32, 32) images to (B, 64, 64) patches: 16 latent channels, 4 of them zero."""
    latents = F.pad(F.pixel_unshuffle(images, 2), (0, 0, 0, 0, 0, 4))
    patches = F.pixel_unshuffle(latents, 2)
    return patches.flatten(2).transpose(1, 2)


def to_images(patches: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_patches`."""
    latents = F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (8, 8)), 2)
    return F.pixel_shuffle(latents[:, :12], 2)
