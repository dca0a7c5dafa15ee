"""ComfyUI's model families: their block lists and heads, and which model type a model is."""

from dataclasses import dataclass
from typing import Any

from ...blocks import Family, plain_module

_DOUBLE_SINGLE = ("double_blocks", "single_blocks")

_FINAL = ("final_layer",)
_NORM = ("norm_out",)
_BLOCKS = ("blocks",)
_LAYERS = ("layers",)
_TRANSFORMER = ("transformer_blocks",)
_HIDREAM = ("double_stream_blocks", "single_stream_blocks")
_BOOGU = ("double_stream_layers", "single_stream_layers")

FAMILIES = {
    "Flux": Family("flux", _DOUBLE_SINGLE, _FINAL),
    "Chroma": Family("chroma", _DOUBLE_SINGLE, _FINAL),
    "HunyuanVideo": Family("hunyuan_video", _DOUBLE_SINGLE, _FINAL),
    "WanModel": Family("wan", _BLOCKS, ("head",)),
    "VaceWanModel": Family("wan_vace", ("blocks", "vace_blocks"), ("head",)),
    "QwenImageTransformer2DModel": Family("qwen_image", _TRANSFORMER, _NORM),
    "OpenAISignatureMMDITWrapper": Family("sd3", ("joint_blocks",), _FINAL),
    "MMDiT": Family("auraflow", ("double_layers", "single_layers"), ("final_linear",)),
    "PixArtMS": Family("pixart", _BLOCKS, _FINAL),
    "HunYuanDiT": Family("hunyuan_dit", _BLOCKS, _FINAL),
    "AsymmDiTJoint": Family("mochi", _BLOCKS, _FINAL),
    "LTXVModel": Family("ltxv", _TRANSFORMER, _NORM),
    "LTXAVModel": Family("ltx2", _TRANSFORMER, ("norm_out", "audio_norm_out")),
    "MiniTrainDIT": Family("cosmos_predict2", _BLOCKS, _FINAL),
    "NextDiT": Family("lumina2", _LAYERS, _FINAL),
    "NextDiTPixelSpace": Family("z_image_pixel", _LAYERS, ("dec_net.cond_embed",)),
    "HiDreamImageTransformer2DModel": Family("hidream", _HIDREAM, _FINAL),
    "OmniGen2Transformer2DModel": Family("omnigen2", _LAYERS, _NORM),
    "BooguTransformer2DModel": Family("boogu", _BOOGU, _NORM),
    "Kandinsky5": Family("kandinsky5", ("visual_transformer_blocks",), ("out_layer",)),
    "SingleStreamDiT": Family("krea2", _BLOCKS, ("last",)),
    "ErnieImageModel": Family("ernie", _LAYERS, ("final_norm",)),
    "MiniMaxH3Model": Family("minimax_h3", _BLOCKS, _FINAL),
    "CogVideoXTransformer3DModel": Family("cogvideox", _BLOCKS, ("norm_final",)),
    "LensTransformer2DModel": Family("lens", _TRANSFORMER, _NORM),
    "MageFlowTransformer2DModel": Family("mage_flow", _TRANSFORMER, _NORM),
    "JoyImageTransformer3DModel": Family("joyimage", ("double_blocks",), _NORM),
    "Ideogram4Transformer2DModel": Family("ideogram4", _LAYERS, _FINAL),
    "PixDiT_T2I": Family("pixeldit", ("patch_blocks", "pixel_blocks"), _FINAL),
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
    "Flux2": Relative(""),
    "LongCatImage": Relative(""),
    "HunyuanImage21": Relative(""),
    "HunyuanImage21Refiner": Relative(""),
}
"""By class name of the diffusion model; of ComfyUI's configuration where they share a class."""

UNFIT = {
    "CausalWanModel": "its blocks store what the frames to come attend to",
    "GeneralDIT": "it looks at its first block before the blocks run",  # Cosmos 1
    "HiDreamO1Transformer": "its blocks store what later evaluations attend to",
    "ChromaRadiance": "each layer of its pixel decoder reads the blocks' output",
}
"""Classes whose blocks must not be skipped, and why."""


def class_name(model: Any) -> str:
    """Class of a loaded model's network, e.g. "WanModel"; `model` is a ModelPatcher."""
    return type(plain_module(model.model.diffusion_model)).__name__


def misfit(model: Any) -> str:
    """Why a loaded model's blocks must not be skipped; "" where nothing speaks against it."""
    name = class_name(model)
    return f"{name} does not fit: {UNFIT[name]}" if name in UNFIT else ""


def kind_of(model: Any) -> str:
    """What tells a model from its relatives: its configuration's name, or its class's."""
    configuration = type(getattr(model.model, "model_config", None)).__name__
    return configuration if configuration in RELATIVES else class_name(model)
