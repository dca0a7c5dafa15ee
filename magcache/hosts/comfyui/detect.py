"""Finds a model's type, its published curve, and the device for its residuals."""

from typing import Any

from ...blocks import Store
from ...curves import Calibration, presets
from .models import AUTO, MODEL_TYPES, OLD_NAMES, class_name, followed_by, kind_of
from .start import Start

_FIRST_FRAME = "time_dim_replace", "concat_latent_image"  # in conditions


def model_type(model: Any, start: Start | None = None) -> str | None:
    """The model type of a loaded ModelPatcher, or None if no row of `MODELS` matches.

    Args:
        model: The ModelPatcher.
        start: The run, once it starts: it tells FLUX from Kontext, and 480p from 720p.
    """
    start, kind, followed = start or Start(), kind_of(model), followed_by(model)
    candidates = [t for t in MODEL_TYPES.values() if t.kind == kind or t.name in followed]
    return next((t.name for t in reversed(candidates) if t.is_it(model, start)), None)


def published(
    model: Any, chosen: str, start: Start | None = None
) -> tuple[Calibration, str] | tuple[None, str]:
    """The published curve for a model, and a note if the model is, or may be, another one.

    Args:
        model: The ModelPatcher.
        chosen: A model type, its older name, or "auto".
        start: The run, once it starts.

    Returns:
        Preset and note, or None and the reason if auto finds no type.

    Raises:
        ValueError: There is no such type, or it is for another class.
    """
    name = OLD_NAMES.get(chosen, chosen)
    if name != AUTO:
        check_type(model, name)
    found, kind = model_type(model, start) if name == AUTO else name, kind_of(model)
    if found is None:
        return None, f"{kind} has no published list: use the node MagCache, which needs none"
    row = MODEL_TYPES[found]
    by_image = row.from_image and start is not None and _first_frame_is_given(start)
    preset = presets.load(row.from_image if by_image else row.preset)
    note = ""
    if kind != row.kind:
        note = (
            f"the curve was published for {preset.name}, and this model is its relative {kind}: "
            "MagCache Calibration can measure its own"
        )
    elif name == AUTO and start is not None:
        note = row.doubt(model, start)
    return preset, note


def check_type(model: Any, model_type: str) -> None:
    """Checks that a model type fits a model.

    Raises:
        ValueError: It does not; the message names both.
    """
    if model_type not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise ValueError(f"unknown model_type {model_type}: choose auto or one of {known}")
    fits, followed = MODEL_TYPES[model_type].network, followed_by(model)
    if fits not in {class_name(model), *(MODEL_TYPES[name].network for name in followed)}:
        raise ValueError(
            f"model_type {model_type} is for {fits}, but the model is {class_name(model)}: choose "
            "its own type, or auto"
        )


def _first_frame_is_given(start: Start) -> bool:
    """Whether a run makes a video from an image, so only its first frame is not denoised."""
    if (mask := start.mask) is None or mask.ndim != 5:
        return any(map(start.holds, _FIRST_FRAME))
    return not mask[:, :, 0].any() and bool(mask.any())


def store() -> Store:
    """Where residuals are kept by default: off the device in low-memory modes."""
    from comfy import model_management

    low = ("LOW_VRAM", "NO_VRAM")
    return "offload" if model_management.vram_state.name in low else "device"
