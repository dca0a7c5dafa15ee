"""Tiny video models, and an image model with HunyuanVideo's network, one entry each."""

from typing import Any

from . import given
from .given import TEXT, VIDEO, Given
from .images import COSMOS, FLUX, KANDINSKY
from .model import DIM, Tiny

_LTX_SHAPE = (1, 128, 2, 4, 4)
_HUNYUAN = {
    **FLUX, "theta": 256, "patch_size": [1, 2, 2], "byt5": False, "meanflow": False,
    "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
_WAN = {
    "patch_size": (1, 2, 2), "dim": DIM, "ffn_dim": 2 * DIM, "num_heads": 1, "in_dim": 16,
    "out_dim": 16, "freq_dim": 256, "window_size": (-1, -1), "qk_norm": True,
    "cross_attn_norm": True, "eps": 1e-6, "num_layers": 3, "text_dim": 4096,
}  # fmt: skip
_LTXV = {
    "in_channels": 128, "cross_attention_dim": DIM, "attention_head_dim": 32,
    "num_attention_heads": 4, "caption_channels": TEXT, "num_layers": 2,
}  # fmt: skip
_COG = {
    "num_attention_heads": 2, "attention_head_dim": 64, "time_embed_dim": 32,
    "text_embed_dim": TEXT, "num_layers": 2, "use_rotary_positional_embeddings": True,
}  # fmt: skip


def _wan(
    name: str, config: str, given: Given = given.NOTHING, types: tuple[str, ...] = (), **sizes: Any
) -> Tiny:
    return Tiny(name, config, "wan.model.WanModel", {**_WAN, **sizes}, VIDEO, given, types=types)


def _relative(config: str, network: str, given: Given = given.NOTHING, **sizes: Any) -> Tiny:
    """A model that ComfyUI derives from Wan."""
    return Tiny(config, config, network, {**_WAN, **sizes}, VIDEO, given)


VIDEOS = (
    Tiny(
        "hunyuan_video", "HunyuanVideo", "hunyuan_video.model.HunyuanVideo", _HUNYUAN, VIDEO,
        types=("hunyuan_video",),
    ),
    Tiny("hunyuan_video1.5", "HunyuanVideo15", "hunyuan_video.model.HunyuanVideo", {
        **_HUNYUAN, "in_channels": 65, "out_channels": 32, "vec_in_dim": None,
        "patch_size": [1, 1, 1], "guidance_embed": False, "byt5": True,
        "use_cond_type_embedding": True, "vision_in_dim": 1152, "meanflow_sum": True,
    }, (1, 32, 2, 4, 4), given.GLYPHS_AND_IMAGE, types=("hunyuan_video1.5",)),
    Tiny("hunyuan_image", "HunyuanImage21", "hunyuan_video.model.HunyuanVideo", {
        **_HUNYUAN, "in_channels": 64, "out_channels": 64, "patch_size": [1, 1],
        "axes_dim": [64, 64], "vec_in_dim": None, "byt5": True, "meanflow": True,
    }, (1, 64, 4, 4), given.GLYPHS),
    _wan("wan_t2v", "WAN21_T2V", types=("wan2.1_t2v_1.3B", "wan2.1_t2v_14B", "wan2.2_t2v_14B")),
    _wan(
        "wan_i2v", "WAN21_I2V", given.WAN_IMAGE, ("wan2.1_i2v_480p_14B", "wan2.1_i2v_720p_14B"),
        in_dim=36,
    ),
    Tiny("wan_vace", "WAN21_Vace", "wan.model.VaceWanModel", {
        **_WAN, "num_layers": 4, "vace_layers": 2, "vace_in_dim": 96,
    }, VIDEO, given.VACE, types=("wan2.1_vace_1.3B", "wan2.1_vace_14B")),
    Tiny(
        "wan_ti2v", "WAN22_T2V", "wan.model.WanModel", {**_WAN, "in_dim": 48, "out_dim": 48},
        (1, 48, 2, 8, 8), types=("wan2.2_ti2v_5B",),
    ),
    # Wan 2.2 I2V 14B has the channels of I2V, but no image embedder.
    _wan("wan22_i2v", "WAN21_T2V", given.WAN_IMAGE, ("wan2.2_i2v_14B",), in_dim=36),
    _relative("WAN21_Camera", "wan.model.CameraWanModel", given.CAMERA, in_dim=32),
    _relative("WAN22_Camera", "wan.model.CameraWanModel", given.CAMERA, in_dim=36),
    _relative("WAN22_S2V", "wan.model.WanModel_S2V", given.SPEECH, audio_inject_layers=[0, 2]),
    _relative("WAN21_HuMo", "wan.model.HumoWanModel", given.HUMAN, in_dim=36, num_layers=2),
    _relative(
        "WAN22_Animate", "wan.model_animate.AnimateWanModel", given.FACE_AND_POSE,
        in_dim=36, num_layers=5,
    ),
    _relative("WAN_Animate2", "wan.model_animate2.WanAnimate2Model", given.POSE_BEHIND, in_dim=36),
    _relative("WAN21_SCAIL", "wan.model.SCAILWanModel", given.POSE, in_dim=20),
    _relative("WAN21_SCAIL2", "wan.model.SCAIL2WanModel", given.POSES, in_dim=20),
    _relative(
        "WAN22_WanDancer", "wan.model_wandancer.WanDancerModel", given.MUSIC,
        in_dim=36, audio_inject_layers=[0, 2],
    ),
    _relative("WAN21_FunControl2V", "wan.model.WanModel", given.CONTROL, in_dim=48),
    _relative("WAN21_FlowRVS", "wan.model.WanModel"),
    _relative("WAN21_CausalAR_T2V", "wan.ar_model.CausalWanModel"),
    Tiny("mochi", "GenmoMochi", "genmo.joint_model.asymm_models_joint.AsymmDiTJoint", {
        "depth": 2, "patch_size": 2, "num_heads": 2, "hidden_size_x": 96, "hidden_size_y": 48,
        "mlp_ratio_x": 128.0, "mlp_ratio_y": 2.0, "learn_sigma": False, "in_channels": 12,
        "qk_norm": True, "qkv_bias": False, "out_bias": True, "attn_drop": 0.0,
        "posenc_preserve_area": True, "timestep_scale": 1000.0, "use_t5": True,
        "t5_feat_dim": TEXT,
    }, (1, 12, 2, 8, 8), given.PADDED),
    Tiny("ltxv", "LTXV", "lightricks.model.LTXVModel", _LTXV, _LTX_SHAPE, given.PADDED),
    Tiny("ltx2", "LTXAV", "lightricks.av_model.LTXAVModel", {
        **_LTXV, "caption_channels": TEXT // 2, "audio_in_channels": 128,
        "audio_cross_attention_dim": 64, "audio_attention_head_dim": 16,
        "audio_num_attention_heads": 4, "connector_attention_head_dim": 16,
        "connector_num_attention_heads": 2, "connector_num_layers": 1,
    }, _LTX_SHAPE, audio=(1, 8, 5, 16)),
    Tiny(
        "cosmos_predict2_i2v", "CosmosI2VPredict2", "cosmos.predict2.MiniTrainDIT",
        {**COSMOS, "in_channels": 17}, VIDEO, given.FRAME,
    ),
    Tiny(
        "kandinsky5", "Kandinsky5", "kandinsky5.model.Kandinsky5", KANDINSKY, VIDEO,
        types=("kandinsky5_lite", "kandinsky5_pro"),
    ),
    Tiny("minimax_h3", "MiniMaxH3", "minimax.model.MiniMaxH3Model", {
        "hidden_size": 96, "num_layers": 2, "token_refiner_num_layers": 1,
        "num_attention_heads": 2, "attention_head_dim": 64, "ffn_hidden_size": 64,
        "text_dim": TEXT, "timestep_input_dim": 32, "time_embed_hidden_size": 32,
        "time_embed_dim": 32, "rope_inv_freq_len": 8,
    }, (1, 24, 2, 4, 4), given.KEYFRAME, audio=(1, 32, 2, 5)),
    Tiny("cogvideox", "CogVideoX_T2V", "cogvideo.model.CogVideoXTransformer3DModel", _COG, VIDEO),
    Tiny(
        "cogvideox_i2v", "CogVideoX_I2V", "cogvideo.model.CogVideoXTransformer3DModel",
        {**_COG, "in_channels": 32}, VIDEO, given.CHANNELS,
    ),
    Tiny("cosmos1", "CosmosT2V", "cosmos.model.GeneralDIT", {
        **{k: v for k, v in COSMOS.items() if k != "rope_enable_fps_modulation"},
        "block_x_format": "THWBD", "affline_emb_norm": True,
        "extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable",
    }, VIDEO),
)  # fmt: skip
