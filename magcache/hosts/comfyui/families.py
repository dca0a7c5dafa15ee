"""ComfyUI's model families: their block lists and heads, and which model type a model is."""

from dataclasses import dataclass
from typing import Any

from ...families import Family, plain_module

_DOUBLE_SINGLE = ("double_blocks", "single_blocks")

FAMILIES = {
    "Flux": Family("flux", _DOUBLE_SINGLE, ("final_layer",)),
    "Chroma": Family("chroma", _DOUBLE_SINGLE, ("final_layer",)),
    "HunyuanVideo": Family("hunyuan_video", _DOUBLE_SINGLE, ("final_layer",)),
    "WanModel": Family("wan", ("blocks",), ("head",)),
    "VaceWanModel": Family("wan_vace", ("blocks", "vace_blocks"), ("head",)),
    "QwenImageTransformer2DModel": Family("qwen_image", ("transformer_blocks",), ("norm_out",)),
}
"""By class name of the diffusion model. A new family is one entry."""


@dataclass(frozen=True)
class ModelType:
    """An entry of the node's `model_type`: the preset it uses, and the classes it fits."""

    preset: str
    classes: tuple[str, ...]


MODEL_TYPES = {
    "flux": ModelType("flux", ("Flux",)),
    "flux_kontext": ModelType("flux_kontext", ("Flux",)),
    "chroma": ModelType("chroma", ("Chroma",)),
    "hunyuan_video": ModelType("hunyuan_video", ("HunyuanVideo",)),
    "wan2.1_t2v_1.3B": ModelType("wan2.1_t2v_1.3B", ("WanModel",)),
    "wan2.1_t2v_14B": ModelType("wan2.1_t2v_14B", ("WanModel",)),
    "wan2.1_i2v_480p_14B": ModelType("wan2.1_i2v_480p_14B", ("WanModel",)),
    "wan2.1_i2v_720p_14B": ModelType("wan2.1_i2v_720p_14B", ("WanModel",)),
    "wan2.1_vace_1.3B": ModelType("wan2.1_vace_1.3B", ("VaceWanModel",)),
    "qwen_image": ModelType("qwen_image", ("QwenImageTransformer2DModel",)),
    "hunyuan_video1.5": ModelType("hunyuan_video_1.5_20steps", ("HunyuanVideo",)),
    "wan2.1_vace_14B": ModelType("wan2.1_vace_14B", ("VaceWanModel",)),
    "wan2.2_t2v_14B": ModelType("wan2.2_t2v_14B", ("WanModel",)),
    "wan2.2_i2v_14B": ModelType("wan2.2_i2v_14B", ("WanModel",)),
    "wan2.2_ti2v_5B": ModelType("wan2.2_ti2v_5B", ("WanModel",)),
}
AUTO = "auto"
OLD_NAMES = {
    "chroma_calibration": "chroma",
    "flux_calibration": "flux",
    "flux_kontext_calibration": "flux_kontext",
    "hunyuanvideo1.5": "hunyuan_video1.5",
}
"""Values that older workflows hold."""


def class_name(model: Any) -> str:
    """Class of a loaded model's network, e.g. "WanModel"; `model` is a ModelPatcher."""
    return type(plain_module(model.model.diffusion_model)).__name__
