"""A whole pipeline in a folder."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from tiny import TINY


def save_wan(folder: Path) -> Path:
    """Saves a Wan pipeline with random weights, as `from_pretrained` reads it; its folder."""
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "cat": 4}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    torch.manual_seed(0)
    transformer = TINY["wan2.1_t2v"].build().transformer
    sizes = transformer.config
    text = UMT5Config(
        vocab_size=8, d_model=sizes.text_dim, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    statistics = {
        "latents_mean": [0.0] * sizes.in_channels,
        "latents_std": [1.0] * sizes.in_channels,
    }
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=sizes.in_channels, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **statistics
    )
    pipe = WanPipeline(
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ),
        text_encoder=UMT5EncoderModel(text).eval(),
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipe.save_pretrained(folder)
    return folder
