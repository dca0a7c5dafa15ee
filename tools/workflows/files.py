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
_LUMINA = "Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/"


@dataclass(frozen=True)
class File:
    """A file to download.

    Attributes:
        folder: Where it goes under ComfyUI/models.
        address: Where it comes from.
        title: Its name in documents; that of a model is its row's.
    """

    folder: str
    address: str
    title: str = ""

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]


def stand_in(workflows: Iterable[dict[str, Any]], models: Path) -> None:
    """Puts empty files where a server looks for what workflows need, so that it misses none."""
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
"""The files of a model type, where known: the model in one or two, text encoders, VAE."""
