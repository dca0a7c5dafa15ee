"""Tiny image models, one entry each."""

from . import given
from .given import POOLED, TEXT
from .model import DIM, Tiny

_SMALL, _STILL, _SDXL = (1, 16, 4, 4), (1, 16, 1, 8, 8), (1, 4, 8, 8)
FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": POOLED, "context_in_dim": TEXT,
    "hidden_size": DIM, "mlp_ratio": 4.0, "num_heads": 1, "depth": 2, "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True,
    "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
_CHROMA = {
    **{k: v for k, v in FLUX.items() if k != "guidance_embed"},
    "in_channels": 64, "out_channels": 64, "vec_in_dim": None,
    "in_dim": 64, "out_dim": DIM, "hidden_dim": 32, "n_layers": 1,
}  # fmt: skip
COSMOS = {
    "max_img_h": 32, "max_img_w": 32, "max_frames": 8, "in_channels": 16, "out_channels": 16,
    "patch_spatial": 2, "patch_temporal": 1, "model_channels": DIM, "num_heads": 2,
    "num_blocks": 2, "crossattn_emb_channels": TEXT, "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True, "use_adaln_lora": True, "adaln_lora_dim": 16,
    "rope_enable_fps_modulation": False,
}  # fmt: skip
KANDINSKY = {
    "model_dim": DIM, "ff_dim": DIM, "time_dim": 32, "in_text_dim": TEXT, "in_text_dim2": POOLED,
    "visual_embed_dim": 132, "num_text_blocks": 1, "num_visual_blocks": 2,
    "axes_dims": (16, 24, 24),
}  # fmt: skip
_LUMINA = {
    "patch_size": 2, "in_channels": 16, "dim": 96, "n_layers": 2, "n_refiner_layers": 1,
    "n_heads": 2, "n_kv_heads": 1, "qk_norm": True, "cap_feat_dim": TEXT,
    "axes_dims": [16, 16, 16], "axes_lens": [300, 512, 512],
}  # fmt: skip
_Z_IMAGE = {
    **_LUMINA, "dim": 256, "n_heads": 4, "n_kv_heads": 4, "axes_dims": [32, 16, 16],
    "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 8,
    "rope_theta": 256.0, "multiple_of": 32, "ffn_dim_multiplier": 0.5,
}  # fmt: skip
_OMNIGEN2 = {
    "hidden_size": 96, "num_layers": 2, "num_refiner_layers": 1, "num_attention_heads": 2,
    "num_kv_heads": 1, "multiple_of": 32, "axes_dim_rope": [16, 16, 16], "axes_lens": [64, 64, 64],
    "timestep_scale": 1000.0,
}  # fmt: skip

IMAGES = (
    Tiny("flux", "Flux", "flux.model.Flux", FLUX, types=("flux",)),
    Tiny(
        "flux_kontext", "Flux", "flux.model.Flux", FLUX, given=given.REFERENCE,
        types=("flux_kontext",),
    ),
    Tiny("chroma", "Chroma", "chroma.model.Chroma", _CHROMA, types=("chroma",)),
    Tiny("qwen_image", "QwenImage", "qwen_image.model.QwenImageTransformer2DModel", {
        "in_channels": 64, "out_channels": 16, "num_layers": 3, "attention_head_dim": DIM,
        "num_attention_heads": 1, "joint_attention_dim": TEXT,
    }, _STILL, types=("qwen_image",)),
    Tiny("qwen_image_2.1", "QwenImage21", "qwen_image21.model.QwenImage21Transformer2DModel", {
        "in_channels": 64, "out_channels": 64, "num_layers": 3, "attention_head_dim": DIM,
        "num_attention_heads": 1, "context_in_dim": TEXT,
    }, (1, 64, 4, 4), given.REFERENCE_OF_64),
    Tiny(
        "kandinsky5_image", "Kandinsky5Image", "kandinsky5.model.Kandinsky5",
        {**KANDINSKY, "visual_embed_dim": 64}, _STILL, types=("kandinsky5_image",),
    ),
    Tiny("sd3", "SD3", "modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper", {
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "input_size": None, "depth": 2,
        "num_blocks": 2, "adm_in_channels": POOLED, "qk_norm": "rms", "num_patches": 64,
        "pos_embed_scaling_factor": None, "pos_embed_max_size": 8,
        "x_block_self_attn_layers": [0],
        "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": TEXT, "out_features": DIM},
        },
    }),
    Tiny("auraflow", "AuraFlow", "aura.mmdit.MMDiT", {
        "in_channels": 4, "out_channels": 4, "dim": DIM, "n_layers": 2, "n_double_layers": 1,
        "n_heads": 2, "global_conddim": 32, "cond_seq_dim": TEXT, "max_seq": 64,
    }, _SDXL),
    Tiny("pixart", "PixArtSigma", "pixart.pixartms.PixArtMS", {
        "hidden_size": 96, "depth": 2, "num_heads": 2, "caption_channels": TEXT,
        "micro_condition": False, "pe_interpolation": 2,
    }, (1, 4, 4, 64)),
    Tiny("hunyuan_dit", "HunyuanDiT", "hydit.models.HunYuanDiT", {
        "hidden_size": 128, "depth": 4, "num_heads": 2, "mlp_ratio": 2.0, "qk_norm": True,
        "text_len": 5, "text_len_t5": 5, "text_states_dim": TEXT, "text_states_dim_t5": 16,
    }, _SDXL, given.HYDIT),
    Tiny("flux2", "Flux2", "flux.model.Flux", {
        **FLUX, "axes_dim": [32] * 4, "mlp_ratio": 3.0, "theta": 2000, "patch_size": 1,
        "vec_in_dim": None, "qkv_bias": False, "ops_bias": False, "global_modulation": True,
        "mlp_silu_act": True, "default_ref_method": "index", "ref_index_scale": 10.0,
        "txt_ids_dims": [3], "depth": 1, "depth_single_blocks": 1,
    }, _SMALL, given.REFERENCES),
    Tiny("longcat", "LongCatImage", "flux.model.Flux", {
        **FLUX, "guidance_embed": False, "vec_in_dim": None, "txt_ids_dims": [1, 2],
    }),
    Tiny("cosmos_predict2", "CosmosT2IPredict2", "cosmos.predict2.MiniTrainDIT", COSMOS, _STILL),
    Tiny("anima", "Anima", "anima.model.Anima", COSMOS, _STILL, given.IDS),
    Tiny("lumina2", "Lumina2", "lumina.model.NextDiT", _LUMINA, given=given.MASKED),
    Tiny("z_image", "ZImage", "lumina.model.NextDiT", _Z_IMAGE, given=given.MASKED),
    Tiny(
        "z_image_omni", "ZImage", "lumina.model.NextDiT", {**_Z_IMAGE, "siglip_feat_dim": 12},
        given=given.OMNI, needs="siglip_feat_dim",
    ),
    Tiny("z_image_pixel", "ZImagePixelSpace", "lumina.model.NextDiTPixelSpace", {
        **_Z_IMAGE, "in_channels": 3, "decoder_in_channels": 12, "decoder_hidden_size": 64,
        "decoder_num_res_blocks": 2, "decoder_max_freqs": 8,
    }, (1, 3, 8, 8), given.MASKED),
    Tiny("hidream", "HiDream", "hidream.model.HiDreamImageTransformer2DModel", {
        "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 1,
        "num_single_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2,
        "caption_channels": [TEXT, 40], "text_emb_dim": POOLED, "axes_dims_rope": [16, 8, 8],
        "max_resolution": [16, 16], "llama_layers": [0, 1],
    }, given=given.LLAMA),
    Tiny("omnigen2", "Omnigen2", "omnigen.omnigen2.OmniGen2Transformer2DModel", {
        **_OMNIGEN2, "text_feat_dim": TEXT,
    }, given=given.REFERENCES),
    Tiny("boogu", "Boogu", "boogu.model.BooguTransformer2DModel", {
        **_OMNIGEN2, "num_double_stream_layers": 1, "instruction_feat_dim": TEXT,
    }, given=given.REFERENCES),
    Tiny("krea2", "Krea2", "krea2.model.SingleStreamDiT", {
        "features": DIM, "tdim": 32, "txtdim": 16, "heads": 2, "kvheads": 1, "multiplier": 2,
        "layers": 2, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2,
    }, given=given.REFERENCES_AT_ZERO),
    Tiny("ernie", "ErnieImage", "ernie.model.ErnieImageModel", {
        "hidden_size": DIM, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": DIM,
        "in_channels": 16, "out_channels": 16, "text_in_dim": TEXT, "rope_axes_dim": (16, 24, 24),
    }),
    Tiny("lens", "Lens", "lens.model.LensTransformer2DModel", {
        "in_channels": 128, "out_channels": 32, "num_layers": 2, "num_attention_heads": 2,
        "enc_hidden_dim": 16, "selected_layer_index": (0, 1),
    }, (1, 128, 4, 4), given.PADDED),
    Tiny("mage_flow", "MageFlow", "mage_flow.model.MageFlowTransformer2DModel", {
        "in_channels": 16, "out_channels": 16, "num_layers": 2, "num_attention_heads": 1,
        "joint_attention_dim": TEXT,
    }, _SMALL, given.REFERENCES),
    Tiny("joyimage", "JoyImage", "joyimage.model.JoyImageTransformer3DModel", {
        "in_channels": 16, "hidden_size": DIM, "num_attention_heads": 1, "text_dim": TEXT,
        "num_layers": 2,
    }, _STILL, given.PICTURES),
    Tiny("ideogram4", "Ideogram4", "ideogram4.model.Ideogram4Transformer2DModel", {
        "in_channels": 16, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 64,
        "intermediate_size": 64, "adaln_dim": 32, "llm_features_dim": TEXT,
        "mrope_section": [16, 8, 8],
    }, _SMALL, given.PADDED),
    Tiny("pixeldit", "PixelDiTT2I", "pixeldit.model.PixDiT_T2I", {
        "num_groups": 2, "hidden_size": 64, "pixel_attn_hidden_size": 32, "pixel_num_groups": 2,
        "patch_depth": 2, "pixel_depth": 2, "patch_size": 4, "txt_embed_dim": TEXT,
        "txt_max_length": 16,
    }, (1, 3, 16, 16)),
    Tiny("chroma_radiance", "ChromaRadiance", "chroma_radiance.model.ChromaRadiance", {
        **_CHROMA, "in_channels": 3, "out_channels": 3, "patch_size": 4, "nerf_hidden_size": 16,
        "nerf_mlp_ratio": 2, "nerf_depth": 2, "nerf_max_freqs": 4, "nerf_tile_size": 0,
        "nerf_final_head_type": "conv", "nerf_embedder_dtype": None, "use_x0": False,
        "use_sequential_txt_ids": False,
    }, (1, 3, 16, 16)),
    Tiny("hidream_o1", "HiDreamO1", "hidream_o1.model.HiDreamO1Transformer", {
        "text_config_overrides": {
            "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
            "rope_dims": [8, 4, 4],
        },
        "vision_config_overrides": {
            "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "depth": 1,
            "num_position_embeddings": 16, "deepstack_visual_indexes": (),
        },
    }, (1, 3, 64, 64), given.TOKENS_ONLY),
)  # fmt: skip
