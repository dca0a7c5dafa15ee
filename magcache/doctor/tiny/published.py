"""Tiny models of the families with a published curve."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import torch

from .model import DIM, IMAGE, VIDEO, Noise, Tiny

FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 24,
    "context_in_dim": 32, "hidden_size": DIM, "mlp_ratio": 4.0, "num_heads": 1, "depth": 2,
    "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
CHROMA = {
    **{k: v for k, v in FLUX.items() if k != "guidance_embed"},
    "image_model": "chroma", "in_channels": 64, "out_channels": 64, "vec_in_dim": None,
    "in_dim": 64, "out_dim": DIM, "hidden_dim": 32, "n_layers": 1,
}  # fmt: skip
HUNYUAN = {
    **FLUX,
    "image_model": "hunyuan_video", "vec_in_dim": 768, "theta": 256, "patch_size": [1, 2, 2],
    "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None,
    "meanflow_sum": False,
}  # fmt: skip
_HUNYUAN15 = {
    **HUNYUAN,
    "in_channels": 65, "out_channels": 32, "vec_in_dim": None, "patch_size": [1, 1, 1],
    "guidance_embed": False, "byt5": True, "use_cond_type_embedding": True,
    "vision_in_dim": 1152, "meanflow_sum": True,
}  # fmt: skip
WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "patch_size": (1, 2, 2), "dim": DIM,
    "ffn_dim": 2 * DIM, "num_heads": 1, "in_dim": 16, "out_dim": 16, "freq_dim": 256,
    "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
}  # fmt: skip
_QWEN = {
    "image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 3,
    "attention_head_dim": DIM, "num_attention_heads": 1, "joint_attention_dim": 32,
}  # fmt: skip
DOUBLE_SINGLE = ("double_blocks", "single_blocks")
FLUX_PARAMS = "flux.model.FluxParams"
HUNYUAN_PARAMS = "hunyuan_video.model.HunyuanVideoParams"


@cache
def _reads_fluxs_size() -> bool:
    """Whether this version reads FLUX's width from the weights; older ones take it for 3072."""
    from comfy import model_detection

    weights = {
        "double_blocks.0.img_attn.norm.key_norm.scale": torch.empty(DIM),
        "img_in.weight": torch.empty(DIM, 64),
        "vector_in.in_layer.weight": torch.empty(DIM, 24),
        "txt_in.weight": torch.empty(DIM, 32),
    }
    return model_detection.detect_unet_config(weights, "").get("num_heads") == 1


def _always() -> bool:
    return True


def _reference(noise: Noise, _tokens: int) -> dict[str, Any]:
    return {"reference_latents": [noise(1, 16, 4, 8)]}


def _image(noise: Noise, _tokens: int) -> dict[str, Any]:
    seen = SimpleNamespace(penultimate_hidden_states=noise(1, 5, 1280))
    mask = torch.ones(1, 1, *VIDEO[2:])
    mask[:, :, :1] = 0
    latent = noise(*VIDEO)
    return {"clip_vision_output": seen, "concat_latent_image": latent, "concat_mask": mask}


def _vace(noise: Noise, _tokens: int) -> dict[str, Any]:
    frames, mask = noise(1, 32, *VIDEO[2:]), torch.ones(1, 64, *VIDEO[2:])
    return {"vace_frames": [frames], "vace_mask": [mask], "vace_strength": [0.7]}


def _glyphs_and_image(noise: Noise, _tokens: int) -> dict[str, Any]:
    seen = SimpleNamespace(last_hidden_state=noise(1, 5, 1152))
    return {"conditioning_byt5small": noise(1, 4, 1472), "clip_vision_output": seen}


def _wan(name: str, config: str, shape: tuple[int, ...] = VIDEO, **changes: Any) -> Tiny:
    given = changes.pop("given", None)
    vace = given is _vace
    lists = ("blocks", "vace_blocks") if vace else ("blocks",)
    network = "VaceWanModel" if vace else "WanModel"
    sizes = {**WAN, "num_layers": 4 if vace else 3, **changes}
    beside = {"given": given} if given else {}
    return Tiny(
        name, config, network, lists, shape, 4096, 0, sizes, depth="num_layers", reads=_always,
        **beside,
    )  # fmt: skip


def _flux(name: str, **more: Any) -> Tiny:
    return Tiny(
        name, "Flux", "Flux", DOUBLE_SINGLE, IMAGE, 32, 24, FLUX, params=FLUX_PARAMS,
        reads=_reads_fluxs_size, **more,
    )  # fmt: skip


_ALL = (
    _flux("flux"),
    _flux("flux_kontext", given=_reference),
    Tiny(
        "chroma", "Chroma", "Chroma", DOUBLE_SINGLE, IMAGE, 32, 8, CHROMA,
        params="chroma.model.ChromaParams",
    ),
    Tiny(
        "hunyuan_video", "HunyuanVideo", "HunyuanVideo", DOUBLE_SINGLE, VIDEO, 32, 768, HUNYUAN,
        params=HUNYUAN_PARAMS, reads=_always,
    ),
    Tiny(
        "hunyuan_video1.5", "HunyuanVideo15", "HunyuanVideo", DOUBLE_SINGLE, (1, 32, 2, 4, 4), 32,
        8, _HUNYUAN15, _glyphs_and_image, params=HUNYUAN_PARAMS, reads=_always,
    ),
    _wan("wan_t2v", "WAN21_T2V"),
    _wan("wan_i2v", "WAN21_I2V", model_type="i2v", in_dim=36, given=_image),
    _wan(
        "wan_vace", "WAN21_Vace", model_type="vace", given=_vace, vace_layers=2, vace_in_dim=96
    ),
    _wan("wan_ti2v", "WAN22_T2V", (1, 48, 2, 8, 8), in_dim=48, out_dim=48),
    # Wan 2.2's 14B for images: the channels of I2V, but no image embedder.
    _wan("wan22_i2v", "WAN21_T2V", in_dim=36, given=_image),
    Tiny(
        "qwen_image", "QwenImage", "QwenImageTransformer2DModel", ("transformer_blocks",),
        (1, 16, 1, 8, 8), 32, 0, _QWEN, depth="num_layers",
    ),
)  # fmt: skip
TINY = {tiny.name: tiny for tiny in _ALL if tiny.there}
