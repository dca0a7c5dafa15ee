"""ComfyUI's models: one row each, with all that MagCache knows about a model.

Nodes, `auto`, the doctor and the docs read these rows. CONTRIBUTING.md says how to add one.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...blocks import Family, family_of, plain_module
from . import host
from .start import Start

_WIDE = 4000  # channels: the 14B models of Wan have 5120, the smaller ones 3072 at most
_LARGE_FRAME = 9000  # latent pixels per frame: 480p has at most 6240, 720p at least 12,800


Auto = Callable[[Any, Start], bool]
"""Whether a loaded ModelPatcher, in a run, is a row's model and not another of its class.

The docs quote its docstring.
"""


def _always(_model: Any, _start: Start) -> bool:
    """Any, unless a row below matches."""
    return True


def _no_doubt(_model: Any, _start: Start) -> str:
    return ""


def _has_references(_model: Any, start: Start) -> bool:
    """With reference latents."""
    return start.holds("reference_latents")


def _is_version_1_5(model: Any, _start: Start) -> bool:
    """With HunyuanVideo 1.5's configuration."""
    return type(model.model).__name__.startswith("HunyuanVideo15")


def _is_wide(model: Any, _start: Start) -> bool:
    """Wider than 4000 channels."""
    return model.model.diffusion_model.dim > _WIDE


def _embeds_an_image(model: Any, _start: Start) -> bool:
    """With an image embedder."""
    return model.model.diffusion_model.model_type == "i2v"


def _embeds_a_large_image(model: Any, start: Start) -> bool:
    """With an image embedder, and more than 9000 latent pixels per frame."""
    large = bool(start.latent) and start.latent[-1] * start.latent[-2] > _LARGE_FRAME
    return large and _embeds_an_image(model, start)


def _takes_an_image_as_channels(model: Any, start: Start) -> bool:
    """With image channels, but no image embedder."""
    channels = model.model.diffusion_model.patch_embedding.in_channels
    return channels > 16 and not _embeds_an_image(model, start)


def _has_48_channels(model: Any, _start: Start) -> bool:
    """With 48 latent channels."""
    return model.model.latent_format.latent_channels == 48


def _is_wan22(model: Any, start: Start) -> bool:
    """From text, wider than 4000 channels, and Wan 2.2 by file name, or with two samplers."""
    network = model.model.diffusion_model
    from_text = network.patch_embedding.in_channels == 16 and not _embeds_an_image(model, start)
    told = _wan_by_name(model)
    return from_text and _is_wide(model, start) and (told == "2.2" if told else start.split)


def _wan_by_name(model: Any) -> str:
    """ "2.1" or "2.2" if the name of the model's file says so; older ComfyUI keep no name."""
    name = host.file_of(model)
    if re.search(r"(high|low)[ ._-]?noise", name):
        return "2.2"
    found = re.search(r"wan[ ._-]?2[._]?([12])(?!\d)", name)
    return f"2.{found[1]}" if found else ""


def _which_wan(model: Any, start: Start) -> str:
    """A note that it may be the other one: both have the same class and sizes."""
    if _wan_by_name(model):
        return ""
    if start.split:
        return (
            "taken for Wan 2.2, because two samplers share the run: if it is Wan 2.1, choose "
            "wan2.1_t2v_14B"
        )
    return (
        "taken for Wan 2.1, which looks the same as Wan 2.2: if it is Wan 2.2, choose "
        "wan2.2_t2v_14B"
    )


def _is_lite(model: Any, _start: Start) -> bool:
    """Narrower than 2000 channels, as the Lite models for videos are."""
    return model.model.diffusion_model.model_dim < 2000


def _is_pro(model: Any, _start: Start) -> bool:
    """Wider than 4000 channels, as the Pro models are."""
    return model.model.diffusion_model.model_dim > _WIDE


@dataclass(frozen=True)
class Model:
    """A model, or a family of models.

    Attributes:
        name: Its name in the nodes' `model_type`, or the family's name if it has no preset.
        network: Class name of its diffusion model, or of a base class.
        family: Block lists and head; None to use those of a base class, or if none fit.
        title: Its name in the docs.
        preset: Its published curve; "" without one.
        from_image: Another published curve for runs with a given first frame.
        auto: How `auto` recognises it. If several rows of a class match, the last one counts.
        doubt: The report's note if it may be another model; "" otherwise.
        config: Its class in `comfy.supported_models`, if models with other curves share the
            network's class.
        follows: Names of the models whose curves `auto` may use for it.
        unfit: Why its blocks must not be skipped; "" if they may be.
        remembers: Whether a call stores something that later calls need.
    """

    name: str
    network: str
    family: Family | None = None
    title: str = ""
    preset: str = ""
    from_image: str = ""
    auto: Auto = _always
    doubt: Callable[[Any, Start], str] = _no_doubt
    config: str = ""
    follows: tuple[str, ...] = ()
    unfit: str = ""
    remembers: bool = False

    @property
    def kind(self) -> str:
        """The name of its configuration, or else of its class."""
        return self.config or self.network

    def is_it(self, model: Any, start: Start) -> bool:
        """Whether `auto` takes a loaded ModelPatcher for this model, in a run."""
        return self.auto(model, start)


_DOUBLE_SINGLE = ("double_blocks", "single_blocks")
_FINAL, _NORM = ("final_layer",), ("norm_out",)
_BLOCKS, _LAYERS, _TRANSFORMER = ("blocks",), ("layers",), ("transformer_blocks",)

_FLUX = Family("flux", _DOUBLE_SINGLE, _FINAL)
_HUNYUAN = Family("hunyuan_video", _DOUBLE_SINGLE, _FINAL)
_HUNYUAN15 = Family("hunyuan_video_1.5", _DOUBLE_SINGLE, _FINAL)
_WAN = Family("wan", _BLOCKS, ("head",))
_VACE = Family("wan_vace", ("blocks", "vace_blocks"), ("head",))
_HIDREAM = ("double_stream_blocks", "single_stream_blocks")
_BOOGU = ("double_stream_layers", "single_stream_layers")

_FROM_TEXT = ("wan2.1_t2v_1.3B", "wan2.1_t2v_14B")
_ANY_WAN = (
    *_FROM_TEXT, "wan2.1_i2v_480p_14B", "wan2.1_i2v_720p_14B", "wan2.2_i2v_14B", "wan2.2_ti2v_5B",
)  # fmt: skip


def _of(name: str, network: str, lists: tuple[str, ...], heads: tuple[str, ...]) -> Model:
    """A row of a family without a published curve."""
    return Model(name, network, Family(name, lists, heads))


def _unfit(name: str, network: str, title: str, why: str, remembers: bool = False) -> Model:
    return Model(name, network, title=title, unfit=why, remembers=remembers)


MODELS = (
    Model("flux", "Flux", _FLUX, "FLUX.1 dev", "flux"),
    Model("flux_kontext", "Flux", _FLUX, "FLUX.1 Kontext", "flux_kontext", auto=_has_references),
    Model("chroma", "Chroma", Family("chroma", _DOUBLE_SINGLE, _FINAL), "Chroma1 HD", "chroma"),
    Model("hunyuan_video", "HunyuanVideo", _HUNYUAN, "HunyuanVideo", "hunyuan_video"),
    Model("wan2.1_t2v_1.3B", "WanModel", _WAN, "Wan 2.1 T2V 1.3B", "wan2.1_t2v_1.3B"),
    Model(
        "wan2.1_t2v_14B", "WanModel", _WAN, "Wan 2.1 T2V 14B", "wan2.1_t2v_14B", auto=_is_wide,
        doubt=_which_wan,
    ),
    Model(
        "wan2.1_i2v_480p_14B", "WanModel", _WAN, "Wan 2.1 I2V 480p", "wan2.1_i2v_480p_14B",
        auto=_embeds_an_image,
    ),
    Model(
        "wan2.1_i2v_720p_14B", "WanModel", _WAN, "Wan 2.1 I2V 720p", "wan2.1_i2v_720p_14B",
        auto=_embeds_a_large_image,
    ),
    Model("wan2.1_vace_1.3B", "VaceWanModel", _VACE, "Wan 2.1 VACE 1.3B", "wan2.1_vace_1.3B"),
    Model(
        "qwen_image", "QwenImageTransformer2DModel", Family("qwen_image", _TRANSFORMER, _NORM),
        "Qwen-Image", "qwen_image",
    ),
    Model(
        "hunyuan_video1.5", "HunyuanVideo", _HUNYUAN15, "HunyuanVideo 1.5",
        "hunyuan_video_1.5_20steps", "hunyuan_video_1.5_i2v", auto=_is_version_1_5,
    ),
    Model(
        "wan2.1_vace_14B", "VaceWanModel", _VACE, "Wan 2.1 VACE 14B", "wan2.1_vace_14B",
        auto=_is_wide,
    ),
    Model(
        "wan2.2_t2v_14B", "WanModel", _WAN, "Wan 2.2 T2V", "wan2.2_t2v_14B", auto=_is_wan22,
        doubt=_which_wan,
    ),
    Model(
        "wan2.2_i2v_14B", "WanModel", _WAN, "Wan 2.2 I2V", "wan2.2_i2v_14B",
        auto=_takes_an_image_as_channels,
    ),
    Model(
        "wan2.2_ti2v_5B", "WanModel", _WAN, "Wan 2.2 TI2V 5B", "wan2.2_ti2v_5B",
        "wan2.2_ti2v_5B_i2v", auto=_has_48_channels,
    ),
    Model(
        "kandinsky5_lite", "Kandinsky5", title="Kandinsky 5 Lite", preset="kandinsky5_lite_t2v",
        from_image="kandinsky5_lite_i2v", auto=_is_lite,
    ),
    Model(
        "kandinsky5_pro", "Kandinsky5", title="Kandinsky 5 Pro", preset="kandinsky5_pro_t2v",
        from_image="kandinsky5_pro_i2v", auto=_is_pro,
    ),
    Model(
        "kandinsky5_image", "Kandinsky5", title="Kandinsky 5 Image", preset="kandinsky5_image",
        config="Kandinsky5Image",
    ),

    Model("wan_camera", "CameraWanModel", title="Wan Fun Camera", follows=_ANY_WAN),
    Model("wan_s2v", "WanModel_S2V", title="Wan S2V", follows=_ANY_WAN),
    Model(  # its image channels hold a reference
        "wan_humo", "HumoWanModel", title="Wan HuMo", follows=_FROM_TEXT
    ),
    Model("wan_animate", "AnimateWanModel", title="Wan Animate", follows=_ANY_WAN),
    Model("wan_animate2", "WanAnimate2Model", title="Wan Animate 2", follows=_ANY_WAN),
    Model("wan_scail", "SCAILWanModel", title="Wan SCAIL", follows=_ANY_WAN),
    Model("wan_scail2", "SCAIL2WanModel", title="Wan SCAIL 2", follows=_ANY_WAN),
    Model("wan_dancer", "WanDancerModel", title="WanDancer", follows=_ANY_WAN),
    Model(
        "wan_fun_control", "WanModel", title="Wan Fun Control", config="WAN21_FunControl2V",
        follows=_ANY_WAN,
    ),
    Model("wan_flow_rvs", "WanModel", config="WAN21_FlowRVS"),  # starts from a video, not noise
    Model("flux2", "Flux", config="Flux2"),
    Model("longcat", "Flux", config="LongCatImage"),
    Model("hunyuan_image", "HunyuanVideo", config="HunyuanImage21"),
    Model("hunyuan_image_refiner", "HunyuanVideo", config="HunyuanImage21Refiner"),

    _of("sd3", "OpenAISignatureMMDITWrapper", ("joint_blocks",), _FINAL),
    _of("auraflow", "MMDiT", ("double_layers", "single_layers"), ("final_linear",)),
    _of("pixart", "PixArtMS", _BLOCKS, _FINAL),
    _of("hunyuan_dit", "HunYuanDiT", _BLOCKS, _FINAL),
    _of("mochi", "AsymmDiTJoint", _BLOCKS, _FINAL),
    _of("ltxv", "LTXVModel", _TRANSFORMER, _NORM),
    _of("ltx2", "LTXAVModel", _TRANSFORMER, ("norm_out", "audio_norm_out")),
    _of("cosmos_predict2", "MiniTrainDIT", _BLOCKS, _FINAL),
    _of("lumina2", "NextDiT", _LAYERS, _FINAL),
    _of("z_image_pixel", "NextDiTPixelSpace", _LAYERS, ("dec_net.cond_embed",)),
    _of("hidream", "HiDreamImageTransformer2DModel", _HIDREAM, _FINAL),
    _of("omnigen2", "OmniGen2Transformer2DModel", _LAYERS, _NORM),
    _of("boogu", "BooguTransformer2DModel", _BOOGU, _NORM),
    _of("kandinsky5", "Kandinsky5", ("visual_transformer_blocks",), ("out_layer",)),
    _of("krea2", "SingleStreamDiT", _BLOCKS, ("last",)),
    _of("ernie", "ErnieImageModel", _LAYERS, ("final_norm",)),
    _of("minimax_h3", "MiniMaxH3Model", _BLOCKS, _FINAL),
    _of("cogvideox", "CogVideoXTransformer3DModel", _BLOCKS, ("norm_final",)),
    _of("lens", "LensTransformer2DModel", _TRANSFORMER, _NORM),
    _of("mage_flow", "MageFlowTransformer2DModel", _TRANSFORMER, _NORM),
    _of("joyimage", "JoyImageTransformer3DModel", ("double_blocks",), _NORM),
    _of("ideogram4", "Ideogram4Transformer2DModel", _LAYERS, _FINAL),
    _of("qwen_image_2.1", "QwenImage21Transformer2DModel", _TRANSFORMER, _NORM),
    _of("pixeldit", "PixDiT_T2I", ("patch_blocks", "pixel_blocks"), _FINAL),

    _unfit(
        "wan_causal", "CausalWanModel", "Wan, causal",
        "its blocks store what later frames attend to", remembers=True,
    ),
    _unfit(
        "cosmos1", "GeneralDIT", "Cosmos 1", "it looks at its first block before the blocks run"
    ),
    _unfit(
        "hidream_o1", "HiDreamO1Transformer", "HiDream-O1",
        "its blocks store what later evaluations attend to", remembers=True,
    ),
    _unfit(
        "chroma_radiance", "ChromaRadiance", "Chroma Radiance",
        "each layer of its pixel decoder reads the blocks' output",
    ),
)  # fmt: skip
"""The nodes list the models with a preset, in this order."""

MODEL_TYPES = {row.name: row for row in MODELS if row.preset}
"""Models by the values of the nodes' `model_type`."""
FAMILIES = {row.network: row.family for row in reversed(MODELS) if row.family}
UNFIT = {row.network: row.unfit for row in MODELS if row.unfit}
"""Both by class name of the diffusion model; `family_of` also tries base classes."""
AUTO = "auto"
OLD_NAMES = {
    "chroma_calibration": "chroma",
    "flux_calibration": "flux",
    "flux_kontext_calibration": "flux_kontext",
    "hunyuanvideo1.5": "hunyuan_video1.5",
}
"""Values in older workflows."""


def class_name(model: Any) -> str:
    """Class of a loaded model's network, e.g. "WanModel"; `model` is a ModelPatcher."""
    return type(plain_module(model.model.diffusion_model)).__name__


def block_names(network: nn.Module) -> list[str]:
    """Names of a network's blocks, such as "blocks.0"; empty if the network is unknown."""
    family = family_of(network, FAMILIES)
    lists = family.lists if family else ()
    return [f"{name}.{at}" for name in lists for at in range(len(getattr(network, name, ())))]


def kind_of(model: Any) -> str:
    """The kind of a loaded model, see `Model.kind`."""
    configuration = type(getattr(model.model, "model_config", None)).__name__
    return (
        configuration if any(row.config == configuration for row in MODELS) else class_name(model)
    )


def followed_by(model: Any) -> set[str]:
    """Names of other models whose curves a loaded model may use."""
    kind = kind_of(model)
    return {name for row in MODELS if row.kind == kind for name in row.follows}


def misfit(model: Any) -> str:
    """Why a loaded model's blocks must not be skipped; "" if they may be."""
    name = class_name(model)
    return f"{name}'s blocks cannot be skipped: {UNFIT[name]}" if name in UNFIT else ""


def remembers(model: Any) -> str:
    """Why no call of a loaded model may be skipped; "" if calls may be."""
    name = class_name(model)
    return misfit(model) if any(row.remembers for row in MODELS if row.network == name) else ""
