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
"""By class name of the diffusion model, or of one of its bases. A new family is one entry."""


@dataclass(frozen=True)
class ModelType:
    """An entry of the node's `model_type`.

    Attributes:
        preset: The preset it uses.
        classes: Class names of the diffusion models it fits, beside their relatives.
        from_image: The preset of samplings whose first frame is given, where it is another.
    """

    preset: str
    classes: tuple[str, ...]
    from_image: str = ""


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
    "wan2.2_ti2v_5B": ModelType("wan2.2_ti2v_5B", ("WanModel",), "wan2.2_ti2v_5B_i2v"),
}
AUTO = "auto"
OLD_NAMES = {
    "chroma_calibration": "chroma",
    "flux_calibration": "flux",
    "flux_kontext_calibration": "flux_kontext",
    "hunyuanvideo1.5": "hunyuan_video1.5",
}
"""Values that older workflows hold."""


@dataclass(frozen=True)
class Relative:
    """A model without a published curve of its own, which follows one of its family.

    Attributes:
        of: Class name of the diffusion model whose types it takes; "" where no curve is near, and
            it takes one only if the user says so.
        from_text: It is taken for text-to-video, although image channels speak against it.
    """

    of: str
    from_text: bool = False


RELATIVES = {
    "CameraWanModel": Relative("WanModel"),
    "WanModel_S2V": Relative("WanModel"),
    "HumoWanModel": Relative("WanModel", from_text=True),  # its image channels hold a reference
    "AnimateWanModel": Relative("WanModel"),
    "WanAnimate2Model": Relative("WanModel"),
    "SCAILWanModel": Relative("WanModel"),
    "SCAIL2WanModel": Relative("WanModel"),
    "WanDancerModel": Relative("WanModel"),
    "WAN21_FunControl2V": Relative("WanModel"),
    "WAN21_FlowRVS": Relative(""),  # starts from a video and not from noise
}
"""By class name of the diffusion model; of ComfyUI's configuration where they share a class."""

UNFIT = {
    "CausalWanModel": "its blocks store what the frames to come attend to",
}
"""Classes whose blocks must not be skipped, and why."""


def class_name(model: Any) -> str:
    """Class of a loaded model's network, e.g. "WanModel"; `model` is a ModelPatcher."""
    return type(plain_module(model.model.diffusion_model)).__name__


def kind_of(model: Any) -> str:
    """What tells a model from its relatives: its configuration's name, or its class's."""
    configuration = type(getattr(model.model, "model_config", None)).__name__
    return configuration if configuration in RELATIVES else class_name(model)
