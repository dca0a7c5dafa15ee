"""Tiny random transformers by themselves, where building their whole pipeline is not worth it."""

from __future__ import annotations

from collections.abc import Callable

import diffusers as dfs
import torch
from torch import nn

from tiny import HEAD_DIM, HEADS, ROPE_DIMS, TEXT_DIM, TEXT_TOKENS, Inputs, _noise

WIDTH = HEADS * HEAD_DIM
_HEADS = {"num_attention_heads": HEADS, "attention_head_dim": HEAD_DIM}
Called = tuple[nn.Module, Inputs]
"""A transformer and what it is called with."""


def _text() -> torch.Tensor:
    return _noise(2, 1, TEXT_TOKENS, TEXT_DIM)


def _omnigen() -> Called:
    model = dfs.OmniGenTransformer2DModel(
        hidden_size=32, num_attention_heads=2, num_key_value_heads=2, intermediate_size=32,
        num_layers=3, pad_token_id=0, vocab_size=64, max_position_embeddings=64,
        rope_scaling={"long_factor": [1.0] * 8, "short_factor": [1.0] * 8}, pos_embed_max_size=16,
        time_step_dim=8,
    )  # fmt: skip
    count = TEXT_TOKENS + 1 + 16  # text, time and image
    return model, {
        "hidden_states": _noise(1, 1, 4, 8, 8), "timestep": torch.tensor([0.5]),
        "input_ids": torch.arange(TEXT_TOKENS)[None], "input_img_latents": [],
        "input_image_sizes": {}, "attention_mask": torch.ones(1, count, count),
        "position_ids": torch.arange(count)[None],
    }  # fmt: skip


def _ernie() -> Called:
    model = dfs.ErnieImageTransformer2DModel(
        hidden_size=WIDTH, num_attention_heads=HEADS, num_layers=3, ffn_hidden_size=32,
        in_channels=4, out_channels=4, text_in_dim=TEXT_DIM, rope_axes_dim=ROPE_DIMS,
    )  # fmt: skip
    return model, {
        "hidden_states": _noise(1, 1, 4, 4, 4), "timestep": torch.tensor([500.0]),
        "text_bth": _text(), "text_lens": torch.tensor([TEXT_TOKENS - 1]),
    }  # fmt: skip


def _krea2() -> Called:
    model = dfs.Krea2Transformer2DModel(
        **_HEADS, in_channels=16, num_layers=3, num_key_value_heads=1, intermediate_size=32,
        timestep_embed_dim=8, text_hidden_dim=TEXT_DIM, num_text_layers=2,
        text_num_attention_heads=1, text_num_key_value_heads=1, text_intermediate_size=8,
        num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=ROPE_DIMS,
    )  # fmt: skip
    return model, {
        "hidden_states": _noise(1, 1, 16, 16), "timestep": torch.tensor([0.5]),
        "encoder_hidden_states": _noise(2, 1, TEXT_TOKENS, 2, TEXT_DIM),
        "position_ids": torch.zeros(TEXT_TOKENS + 16, 3),
    }  # fmt: skip


def _ideogram4() -> Called:
    model = dfs.Ideogram4Transformer2DModel(
        **_HEADS, in_channels=4, num_layers=3, intermediate_size=32, adaln_dim=8,
        llm_features_dim=TEXT_DIM, mrope_section=(4, 2, 2),
    )  # fmt: skip
    count = TEXT_TOKENS + 16
    return model, {
        "hidden_states": _noise(1, 1, count, 4), "timestep": torch.tensor([0.5]),
        "encoder_hidden_states": _noise(2, 1, count, TEXT_DIM),
        "position_ids": torch.arange(count)[None, :, None].expand(1, count, 3),
        "segment_ids": torch.zeros(1, count, dtype=torch.int64),
        "indicator": torch.tensor([[3] * TEXT_TOKENS + [2] * 16]),
    }  # fmt: skip


def _joyimage() -> Called:
    model = dfs.JoyImageEditTransformer3DModel(
        in_channels=4, hidden_size=WIDTH, num_attention_heads=HEADS, text_dim=TEXT_DIM,
        num_layers=3, rope_dim_list=list(ROPE_DIMS),
    )  # fmt: skip
    return model, {
        "hidden_states": _noise(1, 1, 4, 1, 8, 8), "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": _text(),
    }  # fmt: skip


def _prx() -> Called:
    model = dfs.PRXTransformer2DModel(
        in_channels=4, context_in_dim=TEXT_DIM, hidden_size=WIDTH, num_heads=HEADS, depth=3,
        axes_dim=[8, 8],
    )  # fmt: skip
    return model, {
        "hidden_states": _noise(1, 1, 4, 8, 8), "timestep": torch.tensor([0.5]),
        "encoder_hidden_states": _text(),
    }  # fmt: skip


def _flux3() -> Called:
    """With a reference image: three kinds of tokens have blocks of their own."""
    model = dfs.Flux3Transformer2DModel(
        **_HEADS, in_channels=16, cond_in_channels=16, num_layers=1, num_single_layers=2,
        joint_attention_dim=TEXT_DIM, timestep_channels=16, axes_dims_rope=(4, 4, 4, 4),
    )  # fmt: skip
    return model, {
        "hidden_states": _noise(1, 1, 16, 16), "timestep": torch.tensor([0.5]),
        "encoder_hidden_states": _text(), "img_ids": torch.zeros(16, 4),
        "txt_ids": torch.zeros(TEXT_TOKENS, 4), "image_cond_hidden_states": _noise(3, 1, 4, 16),
        "image_cond_ids": torch.ones(4, 4),
    }  # fmt: skip


def _fibo2() -> Called:
    """With an image to edit: its head sees the tokens of the new image only."""
    model = dfs.BriaFibo2Transformer2DModel(
        in_channels=4, dim=WIDTH, n_layers=3, n_refiner_layers=1, n_heads=HEADS,
        cap_feat_dim=TEXT_DIM, injection_layer_ids=(1,), perceiver_num_layers=1,
        min_num_gist_tokens=2, max_num_gist_tokens=4, gist_step=2, gist_min_text_len=2,
        gist_max_text_len=16, axes_dims=ROPE_DIMS, axes_lens=(16, 16, 16),
    )  # fmt: skip
    return model, {
        "hidden_states": _noise(1, 1, 4, 8, 8), "timestep": torch.tensor([0.5]),
        "encoder_hidden_states": _noise(2, 1, 2, TEXT_TOKENS, TEXT_DIM),
        "context_latents": [_noise(3, 1, 4, 4, 8)],
    }  # fmt: skip


def _minimax_h3() -> Called:
    """Text, audio and video in one sequence, with two outputs."""
    model = dfs.MiniMaxH3Transformer3DModel(
        **_HEADS, hidden_size=WIDTH, num_layers=3, num_refiner_layers=1, ffn_dim=32, in_channels=4,
        audio_in_channels=4, text_dim=TEXT_DIM, freq_dim=16, time_embed_hidden_dim=16,
        time_embed_dim=16, rope_freq_dim=2,
    )  # fmt: skip
    counts = (TEXT_TOKENS, 3, 8)
    text, audio, video = torch.arange(sum(counts)).split(counts)
    return model, {
        "hidden_states": _noise(1, 1, 8, 16), "audio_hidden_states": _noise(3, 1, 3, 4),
        "encoder_hidden_states": _text(), "timestep": torch.tensor([0.5]),
        "timestep_indices": torch.zeros(sum(counts), dtype=torch.int64),
        "token_tags": torch.tensor([1] * TEXT_TOKENS + [2] * 3 + [0] * 8),
        "position_ids": torch.arange(sum(counts))[:, None].expand(-1, 3).float(),
        "video_indices": video, "audio_indices": audio, "text_indices": text,
    }  # fmt: skip


def _hunyuan_dit() -> Called:
    """Its later blocks take what the earlier ones have left for them."""
    model = dfs.HunyuanDiT2DModel(
        **_HEADS, in_channels=4, patch_size=2, sample_size=8, hidden_size=WIDTH, num_layers=4,
        cross_attention_dim=TEXT_DIM, cross_attention_dim_t5=TEXT_DIM, pooled_projection_dim=8,
        text_len=TEXT_TOKENS, text_len_t5=TEXT_TOKENS, use_style_cond_and_image_meta_size=False,
    )  # fmt: skip
    angles = _noise(4, 16, HEAD_DIM)
    mask = torch.ones(1, TEXT_TOKENS)
    return model, {
        "hidden_states": _noise(1, 1, 4, 8, 8), "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": _text(), "text_embedding_mask": mask,
        "encoder_hidden_states_t5": _noise(3, 1, TEXT_TOKENS, TEXT_DIM),
        "text_embedding_mask_t5": mask, "image_rotary_emb": (angles.cos(), angles.sin()),
    }  # fmt: skip


TRANSFORMERS: dict[str, Callable[[], Called]] = {
    "omnigen": _omnigen,  # its pipeline needs torchvision
    "ernie": _ernie,
    "krea2": _krea2,
    "ideogram4": _ideogram4,
    "joyimage": _joyimage,
    "prx": _prx,
    "flux3": _flux3,
    "fibo2": _fibo2,
    "minimax_h3": _minimax_h3,
    "hunyuan_dit": _hunyuan_dit,
}
