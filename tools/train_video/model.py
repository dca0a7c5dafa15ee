"""The network: diffusers' own Wan transformer at toy size, and a keyword embedding."""

import torch
from diffusers import WanTransformer3DModel
from torch import nn
from torch.nn import functional as F

TEXT_TOKENS = 8
TEXT_WIDTH = 128  # the other columns of Wan's 4096 stay zero
CONFIG = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 768,
    "num_layers": 6,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
}


class VideoModel(nn.Module):
    """Predicts the velocity `noise - clip` of a flow-matching path.

    Word 0 of the vocabulary is padding; a prompt of padding alone is the unconditional one.
    """

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, TEXT_WIDTH)
        self.transformer = WanTransformer3DModel(**CONFIG)
        with torch.no_grad():
            linear = self.transformer.condition_embedder.text_embedder.linear_1
            linear.weight[:, TEXT_WIDTH:] = 0
            linear.weight[:, :TEXT_WIDTH] *= (CONFIG["text_dim"] / TEXT_WIDTH) ** 0.5

    def forward(self, x: torch.Tensor, words: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """`x` (B, 16, F, 16, 16), `words` (B, 8) vocabulary indices, `sigma` (B,) in [0, 1]."""
        text = F.pad(self.words(words), (0, CONFIG["text_dim"] - TEXT_WIDTH))
        return self.transformer(
            hidden_states=x,
            timestep=sigma * 1000,
            encoder_hidden_states=text,
            return_dict=False,
        )[0]


def to_latents(clips: torch.Tensor) -> torch.Tensor:
    """(B, 3, F, 32, 32) clips to (B, 16, F, 16, 16): 16 latent channels, 4 of them zero."""
    frames = F.pixel_unshuffle(clips.transpose(1, 2), 2)
    return F.pad(frames, (0, 0, 0, 0, 0, 4)).transpose(1, 2)


def to_clips(latents: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_latents`."""
    return F.pixel_shuffle(latents.transpose(1, 2)[:, :, :12], 2).transpose(1, 2)
