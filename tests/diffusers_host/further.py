"""Real diffusers pipelines of further families around tiny random transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as dfs
from diffusers import DiffusionPipeline
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from torch import nn

import tiny
from further_inputs import (
    BINNED,
    MASKED,
    embeds,
    given,
    layers,
    lists,
    llama,
    qwen_and_clip,
    text_of,
)
from tiny import HEAD_DIM, HEADS, POOLED_DIM, ROPE_DIMS, TEXT_DIM, TEXT_TOKENS, Inputs, Tiny

_HEADS = {"num_attention_heads": HEADS, "attention_head_dim": HEAD_DIM}
_DOUBLE = ("transformer_blocks",)
_DOUBLE_SINGLE = ("transformer_blocks", "single_transformer_blocks")
Factory = Callable[[], DiffusionPipeline]


def _pipe(
    cls: type[DiffusionPipeline],
    transformer: nn.Module,
    scheduler: dfs.SchedulerMixin | None = None,
    texts: int = 1,
    **parts: Any,
) -> DiffusionPipeline:
    """A pipeline without text encoders, of which there would be `texts`."""
    numbers = ["", *(f"_{n}" for n in range(2, texts + 1))]
    none = {f"{part}{n}": None for n in numbers for part in ("text_encoder", "tokenizer")}
    given = {"vae": None, "scheduler": scheduler or tiny._scheduler("euler", 3.0), **none, **parts}
    for weight in transformer.parameters():
        if not weight.any():  # else a block would add nothing
            nn.init.normal_(weight, std=0.1)
    return cls(transformer=transformer, **given)


def _sd3() -> DiffusionPipeline:
    model = dfs.SD3Transformer2DModel(
        **_HEADS, sample_size=8, in_channels=4, out_channels=4, num_layers=3,
        joint_attention_dim=TEXT_DIM, caption_projection_dim=HEADS * HEAD_DIM,
        pooled_projection_dim=POOLED_DIM, pos_embed_max_size=8, dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )  # fmt: skip
    return _pipe(dfs.StableDiffusion3Pipeline, model, texts=3)


def _mochi() -> DiffusionPipeline:
    model = dfs.MochiTransformer3DModel(
        **_HEADS, num_layers=3, pooled_projection_dim=16, in_channels=4, text_embed_dim=TEXT_DIM,
        time_embed_dim=8, max_sequence_length=TEXT_TOKENS,
    )  # fmt: skip
    scheduler = dfs.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return _pipe(dfs.MochiPipeline, model, scheduler)


def _pixart() -> DiffusionPipeline:
    model = dfs.PixArtTransformer2DModel(
        **_HEADS, num_layers=3, cross_attention_dim=HEADS * HEAD_DIM, sample_size=8,
        caption_channels=TEXT_DIM, use_additional_conditions=False,
    )  # fmt: skip
    return _pipe(dfs.PixArtSigmaPipeline, model, dfs.DPMSolverMultistepScheduler())


def _sana() -> DiffusionPipeline:
    model = dfs.SanaTransformer2DModel(
        **_HEADS, in_channels=4, out_channels=4, num_layers=3, num_cross_attention_heads=HEADS,
        cross_attention_head_dim=HEAD_DIM, cross_attention_dim=HEADS * HEAD_DIM,
        caption_channels=TEXT_DIM, sample_size=8,
    )  # fmt: skip
    scheduler = dfs.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return _pipe(dfs.SanaPipeline, model, scheduler)


def _ltx() -> DiffusionPipeline:
    model = dfs.LTXVideoTransformer3DModel(
        **_HEADS, in_channels=8, out_channels=8, cross_attention_dim=HEADS * HEAD_DIM,
        num_layers=3, caption_channels=TEXT_DIM,
    )  # fmt: skip
    return _pipe(dfs.LTXPipeline, model, tiny._scheduler("euler", 1.0, dynamic=True))


def _ltx2() -> DiffusionPipeline:
    width, audio = HEADS * HEAD_DIM, HEADS * 8
    model = dfs.LTX2VideoTransformer3DModel(
        **_HEADS, in_channels=8, out_channels=8, cross_attention_dim=width, num_layers=3,
        audio_in_channels=128, audio_out_channels=128, audio_num_attention_heads=HEADS,
        audio_attention_head_dim=8, audio_cross_attention_dim=audio, caption_channels=TEXT_DIM,
    )  # fmt: skip
    connectors = LTX2TextConnectors(
        caption_channels=TEXT_DIM, text_proj_in_factor=2, video_connector_num_attention_heads=1,
        video_connector_attention_head_dim=TEXT_DIM, video_connector_num_layers=1,
        video_connector_num_learnable_registers=None, audio_connector_num_attention_heads=1,
        audio_connector_attention_head_dim=TEXT_DIM, audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
    )  # fmt: skip
    sound = dfs.AutoencoderKLLTX2Audio(ch_mult=(1, 1, 1), num_res_blocks=1)
    video = dfs.AutoencoderKLLTX2Video(
        latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 3,
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 4,
    )  # fmt: skip
    parts = {"vae": video, "audio_vae": sound, "connectors": connectors, "vocoder": None}
    return _pipe(dfs.LTX2Pipeline, model, tiny._scheduler("euler", 1.0, dynamic=True), **parts)


def _lumina2() -> DiffusionPipeline:
    model = dfs.Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=24, num_layers=3, num_refiner_layers=1,
        num_attention_heads=2, num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 4, 4),
        axes_lens=(32, 32, 32), cap_feat_dim=TEXT_DIM,
    )  # fmt: skip
    return _pipe(dfs.Lumina2Pipeline, model)


def _z_image() -> DiffusionPipeline:
    model = dfs.ZImageTransformer2DModel(
        in_channels=4, dim=256, n_layers=2, n_refiner_layers=1, n_heads=4, n_kv_heads=4,
        cap_feat_dim=TEXT_DIM, axes_dims=[32, 16, 16], axes_lens=[64, 64, 64],
    )  # fmt: skip
    return _pipe(dfs.ZImagePipeline, model)


def _hidream() -> DiffusionPipeline:
    model = dfs.HiDreamImageTransformer2DModel(
        **_HEADS, patch_size=2, in_channels=4, num_layers=1, num_single_layers=2,
        caption_channels=[TEXT_DIM, TEXT_DIM], text_emb_dim=POOLED_DIM,
        axes_dims_rope=(8, 4, 4), max_resolution=(8, 8), llama_layers=(0, 1, 1),
        force_inference_output=True,
    )  # fmt: skip
    pipe = _pipe(dfs.HiDreamImagePipeline, model, texts=4)
    pipe.default_sample_size = 8  # it scales every size to as many pixels
    return pipe


class _NoCheck:
    """Cosmos's safety checker is a program of its own."""

    def to(self, *_: Any) -> _NoCheck:
        return self


def _cosmos() -> DiffusionPipeline:
    model = dfs.CosmosTransformer3DModel(
        **_HEADS, in_channels=4, out_channels=4, num_layers=3, text_embed_dim=TEXT_DIM,
        adaln_lora_dim=4, max_size=(4, 32, 32), rope_scale=(1.0, 1.0, 1.0),
        extra_pos_embed_type=None, concat_padding_mask=False,
    )  # fmt: skip
    scheduler = dfs.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    return _pipe(dfs.Cosmos2TextToImagePipeline, model, scheduler, safety_checker=_NoCheck())


def _flux2() -> DiffusionPipeline:
    model = dfs.Flux2Transformer2DModel(
        **_HEADS, in_channels=16, num_layers=1, num_single_layers=2, joint_attention_dim=TEXT_DIM,
        timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
    )  # fmt: skip
    return _pipe(dfs.Flux2Pipeline, model, tiny._scheduler("euler", 1.0, dynamic=True))


def _kandinsky() -> DiffusionPipeline:
    model = dfs.Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=TEXT_DIM, in_text_dim2=POOLED_DIM, time_dim=16,
        out_visual_dim=4, model_dim=32, ff_dim=32, num_text_blocks=1, num_visual_blocks=3,
        axes_dims=(4, 6, 6),
    )  # fmt: skip
    return _pipe(dfs.Kandinsky5T2VPipeline, model, texts=2)


def _cogvideox() -> DiffusionPipeline:
    model = dfs.CogVideoXTransformer3DModel(
        **_HEADS, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=TEXT_DIM,
        num_layers=3, sample_width=8, sample_height=8, sample_frames=5,
        max_text_seq_length=TEXT_TOKENS,
    )  # fmt: skip
    return _pipe(dfs.CogVideoXPipeline, model, dfs.CogVideoXDPMScheduler())


def _auraflow() -> DiffusionPipeline:
    model = dfs.AuraFlowTransformer2DModel(
        **_HEADS, sample_size=8, num_mmdit_layers=1, num_single_dit_layers=2,
        joint_attention_dim=TEXT_DIM, caption_projection_dim=HEADS * HEAD_DIM,
        pos_embed_max_size=64,
    )  # fmt: skip
    return _pipe(dfs.AuraFlowPipeline, model)


def _bria() -> DiffusionPipeline:
    model = dfs.BriaTransformer2DModel(
        **_HEADS, in_channels=16, num_layers=1, num_single_layers=2,
        joint_attention_dim=TEXT_DIM, axes_dims_rope=ROPE_DIMS,
    )  # fmt: skip
    vae = dfs.AutoencoderKL(block_out_channels=(4,) * 4, norm_num_groups=1, shift_factor=0.0)
    return _pipe(dfs.BriaPipeline, model, vae=vae)


def _cogview4() -> DiffusionPipeline:
    model = dfs.CogView4Transformer2DModel(
        **_HEADS, in_channels=4, out_channels=4, num_layers=3, text_embed_dim=TEXT_DIM,
        time_embed_dim=8, condition_dim=4, rope_axes_dim=(64, 64), sample_size=8,
    )  # fmt: skip
    return _pipe(dfs.CogView4Pipeline, model, tiny._scheduler("euler", 1.0, dynamic=True))


def _tiny(
    name: str,
    factory: Factory,
    inputs: Callable[..., Inputs],
    blocks: tuple[str, ...] = _DOUBLE,
    calls: int = 1,
) -> Tiny:
    """A family; most batch both branches in one call."""
    return Tiny(name, tiny._build(factory), inputs, tiny._blocks(*blocks), {True: calls})


_FAMILIES = (
    _tiny("sd3", _sd3, given(text_of(pooled=True))),
    _tiny("mochi", _mochi, given(MASKED, num_frames=7)),
    _tiny("pixart", _pixart, given(MASKED, **BINNED)),
    _tiny("sana", _sana, given(MASKED, **BINNED)),
    _tiny("ltxv", _ltx, given(MASKED, num_frames=9)),
    _tiny("ltx2", _ltx2, given(layers, num_frames=9)),
    _tiny("lumina2", _lumina2, given(MASKED), ("layers",), calls=2),
    _tiny("z_image", _z_image, given(lists), ("layers",)),
    _tiny("hidream", _hidream, given(llama), ("double_stream_blocks", "single_stream_blocks")),
    _tiny("cosmos_predict2", _cosmos, given(text_of()), calls=2),
    _tiny("flux2", _flux2, given(lambda: embeds("prompt_embeds")), _DOUBLE_SINGLE),
    _tiny(
        "kandinsky5", _kandinsky, given(qwen_and_clip, num_frames=5),
        ("visual_transformer_blocks",), calls=2,
    ),
    _tiny("cogvideox", _cogvideox, given(text_of(), num_frames=5)),
    _tiny(
        "auraflow", _auraflow, given(MASKED),
        ("joint_transformer_blocks", "single_transformer_blocks"),
    ),
    _tiny("bria", _bria, given(text_of()), _DOUBLE_SINGLE),
    _tiny("cogview4", _cogview4, given(text_of()), calls=2),
)  # fmt: skip
FURTHER = {family.name: family for family in _FAMILIES}
