"""What the tiny networks of the further families are built with, in ComfyUI's own terms."""

from typing import Any

from .model import DIM, POOLED, TEXT
from .published import CHROMA, FLUX, HUNYUAN

_LTXV = {
    "image_model": "ltxv", "in_channels": 128, "cross_attention_dim": DIM,
    "attention_head_dim": 32, "num_attention_heads": 4, "caption_channels": TEXT,
    "num_layers": 2,
}  # fmt: skip
_COSMOS = {
    "image_model": "cosmos_predict2", "max_img_h": 32, "max_img_w": 32, "max_frames": 8,
    "in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1,
    "model_channels": DIM, "num_heads": 2, "num_blocks": 2, "crossattn_emb_channels": TEXT,
    "pos_emb_cls": "rope3d", "pos_emb_learnable": True, "use_adaln_lora": True,
    "adaln_lora_dim": 16, "rope_enable_fps_modulation": False,
}  # fmt: skip
_COSMOS1 = {k: v for k, v in _COSMOS.items() if k != "rope_enable_fps_modulation"}
_LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 96, "n_layers": 2,
    "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 1, "qk_norm": True, "cap_feat_dim": TEXT,
    "axes_dims": [16, 16, 16], "axes_lens": [300, 512, 512],
}  # fmt: skip
_Z_IMAGE = {
    **_LUMINA, "dim": 256, "n_heads": 4, "n_kv_heads": 4, "axes_dims": [32, 16, 16],
    "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 8,
    "rope_theta": 256.0, "multiple_of": 32, "ffn_dim_multiplier": 0.5,
}  # fmt: skip
_OMNIGEN2 = {
    "hidden_size": 96, "num_layers": 2, "num_refiner_layers": 1, "num_attention_heads": 2,
    "num_kv_heads": 1, "multiple_of": 32, "axes_dim_rope": [16, 16, 16],
    "axes_lens": [64, 64, 64], "timestep_scale": 1000.0,
}  # fmt: skip
_COG = {
    "image_model": "cogvideox", "num_attention_heads": 2, "attention_head_dim": 64,
    "time_embed_dim": 32, "text_embed_dim": TEXT, "num_layers": 2,
    "use_rotary_positional_embeddings": True,
}  # fmt: skip

SIZES: dict[str, dict[str, Any]] = {
    "sd3": {
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "input_size": None, "depth": 2,
        "num_blocks": 2, "adm_in_channels": POOLED, "qk_norm": "rms", "num_patches": 64,
        "pos_embed_scaling_factor": None, "pos_embed_max_size": 8,
        "x_block_self_attn_layers": [0],
        "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": TEXT, "out_features": DIM},
        },
    },
    "auraflow": {
        "in_channels": 4, "out_channels": 4, "dim": DIM, "n_layers": 2, "n_double_layers": 1,
        "n_heads": 2, "global_conddim": 32, "cond_seq_dim": TEXT, "max_seq": 64,
    },
    "pixart": {
        "image_model": "pixart_sigma", "hidden_size": 96, "depth": 2, "num_heads": 2,
        "caption_channels": TEXT, "micro_condition": False, "pe_interpolation": 2,
    },
    "hunyuan_dit": {
        "image_model": "hydit", "hidden_size": 128, "depth": 4, "num_heads": 2,
        "mlp_ratio": 2.0, "qk_norm": True, "text_len": 5, "text_len_t5": 5,
        "text_states_dim": TEXT, "text_states_dim_t5": 16,
    },
    "flux2": {
        **FLUX, "image_model": "flux2", "axes_dim": [32] * 4, "mlp_ratio": 3.0, "theta": 2000,
        "patch_size": 1, "vec_in_dim": None, "qkv_bias": False, "ops_bias": False,
        "global_modulation": True, "mlp_silu_act": True, "default_ref_method": "index",
        "ref_index_scale": 10.0, "txt_ids_dims": [3], "depth": 1, "depth_single_blocks": 1,
    },
    "hunyuan_image": {
        **HUNYUAN, "in_channels": 64, "out_channels": 64, "patch_size": [1, 1],
        "axes_dim": [64, 64], "vec_in_dim": None, "byt5": True, "meanflow": True,
    },
    "longcat": {**FLUX, "guidance_embed": False, "vec_in_dim": None, "txt_ids_dims": [1, 2]},
    "mochi": {
        "image_model": "mochi_preview", "depth": 2, "patch_size": 2, "num_heads": 2,
        "hidden_size_x": 96, "hidden_size_y": 48, "mlp_ratio_x": 128.0, "mlp_ratio_y": 2.0,
        "learn_sigma": False, "in_channels": 12, "qk_norm": True, "qkv_bias": False,
        "out_bias": True, "attn_drop": 0.0, "posenc_preserve_area": True,
        "timestep_scale": 1000.0, "use_t5": True, "t5_feat_dim": TEXT,
    },
    "ltxv": _LTXV,
    "ltx2": {
        **_LTXV, "image_model": "ltxav", "audio_in_channels": 128,
        "audio_cross_attention_dim": 64, "audio_attention_head_dim": 16,
        "audio_num_attention_heads": 4, "connector_attention_head_dim": 16,
        "connector_num_attention_heads": 2, "connector_num_layers": 1,
    },
    "cosmos_predict2": _COSMOS,
    "cosmos_predict2_i2v": {**_COSMOS, "in_channels": 17},
    "anima": {**_COSMOS, "image_model": "anima"},
    "lumina2": _LUMINA,
    "z_image": _Z_IMAGE,
    "z_image_omni": {**_Z_IMAGE, "siglip_feat_dim": 12},
    "z_image_pixel": {
        **_Z_IMAGE, "image_model": "zimage_pixel", "in_channels": 3, "decoder_in_channels": 12,
        "decoder_hidden_size": 64, "decoder_num_res_blocks": 2, "decoder_max_freqs": 8,
    },
    "hidream": {
        "image_model": "hidream", "patch_size": 2, "in_channels": 16, "out_channels": 16,
        "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 32,
        "num_attention_heads": 2, "caption_channels": [TEXT, 40], "text_emb_dim": POOLED,
        "axes_dims_rope": [16, 8, 8], "max_resolution": [16, 16], "llama_layers": [0, 1],
    },
    "omnigen2": {**_OMNIGEN2, "image_model": "omnigen2", "text_feat_dim": TEXT},
    "boogu": {
        **_OMNIGEN2, "image_model": "boogu", "num_double_stream_layers": 1,
        "instruction_feat_dim": TEXT,
    },
    "kandinsky5": {
        "image_model": "kandinsky5", "model_dim": DIM, "ff_dim": DIM, "time_dim": 32,
        "in_text_dim": TEXT, "in_text_dim2": POOLED, "visual_embed_dim": 132,
        "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (16, 24, 24),
    },
    "krea2": {
        "image_model": "krea2", "features": DIM, "tdim": 32, "txtdim": 16, "heads": 2,
        "kvheads": 1, "multiplier": 2, "layers": 2, "txtlayers": 2, "txtheads": 2,
        "txtkvheads": 2,
    },
    "ernie": {
        "image_model": "ernie", "hidden_size": DIM, "num_attention_heads": 2, "num_layers": 2,
        "ffn_hidden_size": DIM, "in_channels": 16, "out_channels": 16, "text_in_dim": TEXT,
        "rope_axes_dim": (16, 24, 24),
    },
    "minimax_h3": {
        "image_model": "minimax_h3", "hidden_size": 96, "num_layers": 2,
        "token_refiner_num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 64,
        "ffn_hidden_size": 64, "text_dim": TEXT, "timestep_input_dim": 32,
        "time_embed_hidden_size": 32, "time_embed_dim": 32, "rope_inv_freq_len": 8,
    },
    "cogvideox": _COG,
    "cogvideox_i2v": {**_COG, "in_channels": 32},
    "lens": {
        "image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 2,
        "num_attention_heads": 2, "enc_hidden_dim": 16, "selected_layer_index": (0, 1),
    },
    "mage_flow": {
        "image_model": "mage_flow", "in_channels": 16, "out_channels": 16, "num_layers": 2,
        "num_attention_heads": 1, "joint_attention_dim": TEXT,
    },
    "joyimage": {
        "image_model": "joyimage", "in_channels": 16, "hidden_size": DIM,
        "num_attention_heads": 1, "text_dim": TEXT, "num_layers": 2,
    },
    "ideogram4": {
        "image_model": "ideogram4", "in_channels": 16, "num_layers": 2,
        "num_attention_heads": 2, "attention_head_dim": 64, "intermediate_size": 64,
        "adaln_dim": 32, "llm_features_dim": TEXT, "mrope_section": [16, 8, 8],
    },
    "cosmos1": {
        **_COSMOS1, "image_model": "cosmos",
        "block_x_format": "THWBD", "affline_emb_norm": True,
        "extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable",
    },
    "chroma_radiance": {
        **CHROMA, "image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3,
        "patch_size": 4, "nerf_hidden_size": 16, "nerf_mlp_ratio": 2, "nerf_depth": 2,
        "nerf_max_freqs": 4, "nerf_tile_size": 0, "nerf_final_head_type": "conv",
        "nerf_embedder_dtype": None, "use_x0": False, "use_sequential_txt_ids": False,
    },
    "pixeldit": {
        "image_model": "pixeldit_t2i", "num_groups": 2, "hidden_size": 64,
        "pixel_attn_hidden_size": 32, "pixel_num_groups": 2, "patch_depth": 2,
        "pixel_depth": 2, "patch_size": 4, "txt_embed_dim": TEXT, "txt_max_length": 16,
    },
    "hidream_o1": {
        "image_model": "hidream_o1",
        "text_config_overrides": {
            "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
            "rope_dims": [8, 4, 4],
        },
        "vision_config_overrides": {
            "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "depth": 1,
            "num_position_embeddings": 16, "deepstack_visual_indexes": (),
        },
    },
}  # fmt: skip
