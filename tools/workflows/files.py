"""The files to download: names, folders and addresses from ComfyUI's own templates."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HUB = "https://huggingface.co/"
_FLUX_TEXT = "comfyanonymous/flux_text_encoders/resolve/main/"
_WAN21 = "Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/"
_WAN22 = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files/"
_QWEN = "Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files/"
_HUNYUAN = "Comfy-Org/HunyuanVideo_repackaged/resolve/main/split_files/"
_HUNYUAN15 = "Comfy-Org/HunyuanVideo_1.5_repackaged/resolve/main/split_files/"
_KONTEXT = "Comfy-Org/flux1-kontext-dev_ComfyUI/resolve/main/split_files/"
_MINIMAX = "Comfy-Org/MiniMax-H3/resolve/main/"
_LTX = "Lightricks/LTX-2.3"
_Z_IMAGE = "Comfy-Org/z_image_turbo/resolve/main/split_files/"
_KREA2 = "Comfy-Org/Krea-2/resolve/main/"
_FLUX2 = "Comfy-Org/flux2-dev/resolve/main/split_files/"
_QWEN_EDIT = "Comfy-Org/Qwen-Image-Edit_ComfyUI/resolve/main/split_files/"
_LUMINA = "Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/"


@dataclass(frozen=True)
class File:
    """A file to download.

    Attributes:
        folder: Its folder under ComfyUI/models.
        address: Its download address.
        title: Its name in the docs; a model has the name of its row.
    """

    folder: str
    address: str
    title: str = ""

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]


def stand_in(workflows: Iterable[dict[str, Any]], models: Path) -> None:
    """Creates empty files for everything that workflows need, so that a server misses none."""
    nodes = [node for workflow in workflows for node in workflow["nodes"]]
    for file in [file for node in nodes for file in node["properties"].get("models", [])]:
        path = models / file["directory"] / file["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _file(folder: str, path: str, title: str = "") -> File:
    return File(folder, _HUB + path, title or {"vae": "VAE"}.get(folder, ""))


def _split(folder: str, repository: str, name: str, title: str = "") -> File:
    return _file(folder, f"{repository}{folder}/{name}.safetensors", title)


FLUX = _file("diffusion_models", "Comfy-Org/flux1-dev/resolve/main/flux1-dev.safetensors")
KONTEXT = _split("diffusion_models", _KONTEXT, "flux1-dev-kontext_fp8_scaled")
CHROMA = _file("diffusion_models", "lodestones/Chroma1-HD/resolve/main/Chroma1-HD.safetensors")
CLIP_L = _file("text_encoders", _FLUX_TEXT + "clip_l.safetensors", "CLIP-L")
T5 = _file("text_encoders", _FLUX_TEXT + "t5xxl_fp8_e4m3fn_scaled.safetensors", "T5")
FLUX_VAE = _split("vae", _LUMINA, "ae")

HUNYUAN = _split("diffusion_models", _HUNYUAN, "hunyuan_video_t2v_720p_bf16")
LLAVA = _split("text_encoders", _HUNYUAN, "llava_llama3_fp8_scaled", "LLaVA")
HUNYUAN_VAE = _split("vae", _HUNYUAN, "hunyuan_video_vae_bf16")

WAN21_T2V = _split("diffusion_models", _WAN21, "wan2.1_t2v_1.3B_fp16")
WAN21_I2V = _split("diffusion_models", _WAN21, "wan2.1_i2v_480p_14B_fp16")
WAN21_VACE = _split("diffusion_models", _WAN21, "wan2.1_vace_1.3B_fp16")
UMT5 = _split("text_encoders", _WAN21, "umt5_xxl_fp8_e4m3fn_scaled", "UMT5")
CLIP_VISION = _split("clip_vision", _WAN21, "clip_vision_h", "CLIP vision")
WAN_VAE = _split("vae", _WAN21, "wan_2.1_vae")
WAN22_HIGH = _split("diffusion_models", _WAN22, "wan2.2_t2v_high_noise_14B_fp8_scaled", "high")
WAN22_LOW = _split("diffusion_models", _WAN22, "wan2.2_t2v_low_noise_14B_fp8_scaled", "low")

QWEN = _split("diffusion_models", _QWEN, "qwen_image_fp8_e4m3fn")
QWEN_TEXT = _split("text_encoders", _QWEN, "qwen_2.5_vl_7b_fp8_scaled", "Qwen2.5-VL")
QWEN_VAE = _split("vae", _QWEN, "qwen_image_vae")

HUNYUAN15 = _split("diffusion_models", _HUNYUAN15, "hunyuanvideo1.5_720p_t2v_fp16")
QWEN_TEXT15 = _split("text_encoders", _HUNYUAN15, "qwen_2.5_vl_7b_fp8_scaled", "Qwen2.5-VL")
BYT5 = _split("text_encoders", _HUNYUAN15, "byt5_small_glyphxl_fp16", "ByT5")
HUNYUAN15_VAE = _split("vae", _HUNYUAN15, "hunyuanvideo15_vae_fp16")
WAN21_T2V_14B = _split("diffusion_models", _WAN21, "wan2.1_t2v_14B_fp8_scaled")
WAN21_I2V_720P = _split("diffusion_models", _WAN21, "wan2.1_i2v_720p_14B_fp16")
WAN21_VACE_14B = _split("diffusion_models", _WAN21, "wan2.1_vace_14B_fp16")
WAN22_I2V_HIGH = _split("diffusion_models", _WAN22, "wan2.2_i2v_high_noise_14B_fp8_scaled", "high")
WAN22_I2V_LOW = _split("diffusion_models", _WAN22, "wan2.2_i2v_low_noise_14B_fp8_scaled", "low")
WAN22_TI2V = _split("diffusion_models", _WAN22, "wan2.2_ti2v_5B_fp16")
WAN22_VAE = _split("vae", _WAN22, "wan2.2_vae")

QWEN_EDIT = _split("diffusion_models", _QWEN_EDIT, "qwen_image_edit_2511_fp8mixed")

FLUX2 = _split("diffusion_models", _FLUX2, "flux2_dev_fp8mixed")
MISTRAL = _split("text_encoders", _FLUX2, "mistral_3_small_flux2_bf16", "Mistral 3")
FLUX2_VAE = _file(
    "vae",
    "black-forest-labs/FLUX.2-small-decoder/resolve/main/full_encoder_small_decoder.safetensors",
)
KREA2 = _split("diffusion_models", _KREA2, "krea2_turbo_fp8_scaled")
KREA2_TEXT = _split("text_encoders", _KREA2, "qwen3vl_4b_fp8_scaled", "Qwen3-VL 4B")
KREA2_VAE = _split("vae", _KREA2, "qwen_image_vae")
Z_IMAGE = _split("diffusion_models", _Z_IMAGE, "z_image_turbo_bf16")
Z_IMAGE_TEXT = _split("text_encoders", _Z_IMAGE, "qwen_3_4b", "Qwen3 4B")
Z_IMAGE_VAE = _split("vae", _Z_IMAGE, "ae")

MINIMAX = _split("diffusion_models", _MINIMAX, "minimax_h3_fl2va_pruned_int8_convrot")
MINIMAX_TEXT = _split("text_encoders", _MINIMAX, "qwen3vl_32b_minimax_h3_nvfp4_awq", "Qwen3-VL 32B")
MINIMAX_VAE = _split("vae", _MINIMAX, "minimax_h3_video_vae_fp16", "video VAE")
MINIMAX_AUDIO = _split("vae", _MINIMAX, "minimax_h3_audio_vae_fp32", "audio VAE")
LTX = _file("checkpoints", _LTX + "-fp8/resolve/main/ltx-2.3-22b-dev-fp8.safetensors")
LTX_LORA = _split(
    "loras",
    "Comfy-Org/ltx-2.3/resolve/main/split_files/",
    "ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16",
    "distilled LoRA",
)
LTX_TEXT = _split(
    "text_encoders",
    "Comfy-Org/ltx-2/resolve/main/split_files/",
    "gemma_3_12B_it_fp4_mixed",
    "Gemma 3",
)
LTX_UPSCALER = _file(
    "latent_upscale_models",
    _LTX + "/resolve/main/ltx-2.3-spatial-upscaler-x2-1.1.safetensors",
    "upscaler",
)

OF = {
    "flux": (FLUX, CLIP_L, T5, FLUX_VAE),
    "flux_kontext": (KONTEXT, CLIP_L, T5, FLUX_VAE),
    "chroma": (CHROMA, T5, FLUX_VAE),
    "qwen_image": (QWEN, QWEN_TEXT, QWEN_VAE),
    "hunyuan_video": (HUNYUAN, CLIP_L, LLAVA, HUNYUAN_VAE),
    "hunyuan_video1.5": (HUNYUAN15, QWEN_TEXT15, BYT5, HUNYUAN15_VAE),
    "wan2.1_t2v_1.3B": (WAN21_T2V, UMT5, WAN_VAE),
    "wan2.1_t2v_14B": (WAN21_T2V_14B, UMT5, WAN_VAE),
    "wan2.1_i2v_480p_14B": (WAN21_I2V, UMT5, CLIP_VISION, WAN_VAE),
    "wan2.1_i2v_720p_14B": (WAN21_I2V_720P, UMT5, CLIP_VISION, WAN_VAE),
    "wan2.1_vace_1.3B": (WAN21_VACE, UMT5, WAN_VAE),
    "wan2.1_vace_14B": (WAN21_VACE_14B, UMT5, WAN_VAE),
    "wan2.2_t2v_14B": (WAN22_HIGH, WAN22_LOW, UMT5, WAN_VAE),
    "wan2.2_i2v_14B": (WAN22_I2V_HIGH, WAN22_I2V_LOW, UMT5, WAN_VAE),
    "wan2.2_ti2v_5B": (WAN22_TI2V, UMT5, WAN22_VAE),
}
"""The files of a model type, if known: the model in one or two files, text encoders, VAE."""

UNLISTED = {
    "FLUX.2 dev": (FLUX2, MISTRAL, FLUX2_VAE),
    "Krea 2 Turbo": (KREA2, KREA2_TEXT, KREA2_VAE),
    "LTX-2.3": (LTX, LTX_LORA, LTX_TEXT, LTX_UPSCALER),
    "MiniMax H3": (MINIMAX, MINIMAX_TEXT, MINIMAX_VAE, MINIMAX_AUDIO),
    "Qwen-Image-Edit 2511": (QWEN_EDIT, QWEN_TEXT, QWEN_VAE),
    "Z-Image Turbo": (Z_IMAGE, Z_IMAGE_TEXT, Z_IMAGE_VAE),
}
"""The files of the examples' other models, which have no published list."""
