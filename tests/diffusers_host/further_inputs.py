"""What the pipelines of further families are called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiffusionPipeline

from tiny import CFG_SCALE, POOLED_DIM, TEXT_DIM, TEXT_TOKENS, Inputs, _noise, _text


def embeds(*names: str, shape: tuple[int, ...] = (1, TEXT_TOKENS, TEXT_DIM)) -> Inputs:
    return {name: _noise(seed, *shape) for seed, name in enumerate(names, 1)}


def _pair(name: str, *shape: int) -> Inputs:
    return embeds(name, f"negative_{name}", shape=shape)


def given(more: Callable[[], Inputs], **options: Any) -> Callable[..., Inputs]:
    """`Tiny.inputs` of a family that takes its prompt in its own way."""

    def inputs(_pipe: DiffusionPipeline, *, steps: int = 10) -> Inputs:
        return {
            "num_inference_steps": steps, "height": 64, "width": 64, "output_type": "latent",
            "generator": torch.Generator().manual_seed(0), "guidance_scale": CFG_SCALE,
            **options, **more(),
        }  # fmt: skip

    return inputs


def llama() -> Inputs:
    t5 = _pair("prompt_embeds_t5", 1, TEXT_TOKENS, TEXT_DIM)
    llama = _pair("prompt_embeds_llama3", 2, 1, TEXT_TOKENS, TEXT_DIM)
    return t5 | llama | _pair("pooled_prompt_embeds", 1, POOLED_DIM)


def qwen_and_clip() -> Inputs:
    ends = torch.tensor([0, TEXT_TOKENS])
    lengths = {"prompt_cu_seqlens": ends, "negative_prompt_cu_seqlens": ends}
    qwen = _pair("prompt_embeds_qwen", 1, TEXT_TOKENS, TEXT_DIM)
    return qwen | _pair("prompt_embeds_clip", 1, POOLED_DIM) | lengths


def lists() -> Inputs:
    """Texts of two lengths, in lists."""
    texts = _pair("prompt_embeds", TEXT_TOKENS, TEXT_DIM)
    texts["negative_prompt_embeds"] = texts["negative_prompt_embeds"][1:]
    return {name: [text] for name, text in texts.items()}


def layers() -> Inputs:
    """Two layers of the text encoder at once; guidance by text alone."""
    mask = torch.ones(1, TEXT_TOKENS, dtype=torch.int64)
    scales = ("stg_scale", "audio_stg_scale", "modality_scale", "audio_modality_scale")
    return {
        **_pair("prompt_embeds", 1, TEXT_TOKENS, 2 * TEXT_DIM),
        "prompt_attention_mask": mask, "negative_prompt_attention_mask": mask,
        **dict(zip(scales, (0.0, 0.0, 1.0, 1.0), strict=True)),
    }  # fmt: skip


def text_of(**options: Any) -> Callable[[], Inputs]:
    return lambda: _text(1, cfg=True, **options)


MASKED = text_of(mask="prompt_attention_mask")
BINNED = {"use_resolution_binning": False, "negative_prompt": None}
