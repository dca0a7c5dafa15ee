"""Finding a model's type from the model itself, its published curve, and its residuals' place."""

from dataclasses import dataclass, field
from typing import Any

import torch

from ...blocks import Store
from ...curves import Preset, presets
from .families import AUTO, MODEL_TYPES, OLD_NAMES, RELATIVES, class_name, kind_of

_LARGE_FRAME = 9000  # latent pixels a frame: 480p has 6240 at most, 720p at least 12,800


@dataclass(frozen=True)
class Start:
    """What is known once a sampling starts.

    Attributes:
        conds: The guider's conditions.
        latent: Shape of the latent.
        mask: What of the latent is to be denoised, (B, C, frames, H, W) for a video; None is all.
        made_with: Sampler, guidance, noise levels and so on, see `host.described`.
    """

    conds: Any = None
    latent: tuple[int, ...] = ()
    mask: torch.Tensor | None = None
    made_with: dict[str, Any] = field(default_factory=dict)


def model_type(model: Any, start: Start | None = None) -> str | None:
    """The model type of a loaded ModelPatcher, or None where it is none of the table's.

    Wan 2.1 and 2.2 14B for text have the same shapes: 2.1 is assumed, choose 2.2 by hand.

    Args:
        model: The ModelPatcher.
        start: The sampling: reference latents make FLUX a Kontext, and the latent's size tells
            480p from 720p.
    """
    start = start or Start()
    relative = RELATIVES.get(kind_of(model))
    kind = relative.of if relative else class_name(model)
    if kind == "Flux":
        return "flux_kontext" if _has_references(start.conds) else "flux"
    if kind == "HunyuanVideo":
        newer = type(model.model).__name__.startswith("HunyuanVideo15")
        return "hunyuan_video1.5" if newer else "hunyuan_video"
    if kind in ("WanModel", "VaceWanModel"):
        from_text = relative is not None and relative.from_text
        return _wan_type(model, kind, from_text, start.latent)
    return {"Chroma": "chroma", "QwenImageTransformer2DModel": "qwen_image"}.get(kind)


def published(
    model: Any, chosen: str, start: Start | None = None
) -> tuple[Preset, str] | tuple[None, str]:
    """The published curve for a model, and a note where it was published for another model.

    Args:
        model: The ModelPatcher.
        chosen: A model type, an older value for one, or "auto".
        start: The sampling, once it starts.

    Returns:
        Preset and note; None and the reason where auto finds no type.

    Raises:
        ValueError: There is no such type, or it is for another class.
    """
    kind = OLD_NAMES.get(chosen, chosen)
    if kind != AUTO:
        check_type(model, kind)
    found = model_type(model, start) if kind == AUTO else kind
    if found is None:
        return None, f"{kind_of(model)} is none of the model types that auto knows"
    entry = MODEL_TYPES[found]
    by_image = entry.from_image and start is not None and _first_frame_is_given(start.mask)
    preset = presets.load(entry.from_image if by_image else entry.preset)
    note = ""
    if kind_of(model) in RELATIVES:
        note = (
            f"the curve was published for {preset.name}, and this model is its relative "
            f"{kind_of(model)}: MagCache Calibration measures its own"
        )
    return preset, note


def check_type(model: Any, model_type: str) -> None:
    """Makes sure that a model type fits a model.

    Raises:
        ValueError: It does not; names both.
    """
    if model_type not in MODEL_TYPES:
        raise ValueError(str(known_type(model_type)))
    fits, relative = MODEL_TYPES[model_type].classes, RELATIVES.get(kind_of(model))
    if not {class_name(model), relative.of if relative else ""} & {*fits}:
        raise ValueError(
            f"model_type {model_type} is for {' or '.join(fits)}, but the model is "
            f"{class_name(model)}: choose its own type, or auto"
        )


def known_type(model_type: str) -> bool | str:
    """Whether a workflow may hold a value; else what to choose."""
    if model_type in (*MODEL_TYPES, *OLD_NAMES, AUTO):
        return True
    return f"unknown model_type {model_type}: choose auto or one of {', '.join(MODEL_TYPES)}"


def _wan_type(model: Any, kind: str, from_text: bool, latent: tuple[int, ...]) -> str:
    network = model.model.diffusion_model
    large = network.dim > 4000
    if kind == "VaceWanModel":
        return "wan2.1_vace_14B" if large else "wan2.1_vace_1.3B"
    if model.model.latent_format.latent_channels == 48:
        return "wan2.2_ti2v_5B"
    if network.model_type == "i2v":
        large_frame = bool(latent) and latent[-1] * latent[-2] > _LARGE_FRAME
        return "wan2.1_i2v_720p_14B" if large_frame else "wan2.1_i2v_480p_14B"
    if network.patch_embedding.in_channels > 16 and not from_text:
        return "wan2.2_i2v_14B"  # takes the image as channels, without an image embedder
    return "wan2.1_t2v_14B" if large else "wan2.1_t2v_1.3B"


def _has_references(conds: Any) -> bool:
    if not isinstance(conds, dict):
        return False
    return any("reference_latents" in cond for branch in conds.values() for cond in branch)


def _first_frame_is_given(mask: torch.Tensor | None) -> bool:
    """Whether a sampling makes a video from an image: its first frame is kept, others are not."""
    return mask is not None and mask.ndim == 5 and not mask[:, :, 0].any() and bool(mask.any())


def store() -> Store:
    """Where residuals go if the user does not care: off the device in low-memory modes."""
    from comfy import model_management

    low = ("LOW_VRAM", "NO_VRAM")
    return "offload" if model_management.vram_state.name in low else "device"
