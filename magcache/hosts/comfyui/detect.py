"""Finding a model's type from the model itself, and where its residuals fit."""

from typing import Any

from ...cache import Store
from .families import class_name

_LARGE_FRAME = 9000  # latent pixels a frame: 480p has 6240 at most, 720p at least 12,800


def model_type(model: Any, conds: Any = None, latent: tuple[int, ...] | None = None) -> str | None:
    """The model type of a loaded ModelPatcher, or None where it is none of the table's.

    Wan 2.1 and 2.2 14B for text have the same shapes: 2.1 is assumed, choose 2.2 by hand.

    Args:
        model: The ModelPatcher.
        conds: Its conditions, once they are known: reference latents make FLUX a Kontext.
        latent: Shape of the latent, once it is known: it tells 480p from 720p.
    """
    kind = class_name(model)
    if kind == "Flux":
        return "flux_kontext" if _has_references(conds) else "flux"
    if kind == "HunyuanVideo":
        newer = type(model.model).__name__.startswith("HunyuanVideo15")
        return "hunyuan_video1.5" if newer else "hunyuan_video"
    if kind in ("WanModel", "VaceWanModel"):
        return _wan_type(model, kind, latent)
    return {"Chroma": "chroma", "QwenImageTransformer2DModel": "qwen_image"}.get(kind)


def _wan_type(model: Any, kind: str, latent: tuple[int, ...] | None) -> str:
    network = model.model.diffusion_model
    large = network.dim > 4000
    if kind == "VaceWanModel":
        return "wan2.1_vace_14B" if large else "wan2.1_vace_1.3B"
    if model.model.latent_format.latent_channels == 48:
        return "wan2.2_ti2v_5B"
    by_image = network.model_type == "i2v"
    if not by_image and network.patch_embedding.in_channels > 16:
        return "wan2.2_i2v_14B"  # takes the image as channels, without an image embedder
    if by_image:
        frame = latent[-1] * latent[-2] if latent else 0
        return "wan2.1_i2v_720p_14B" if frame > _LARGE_FRAME else "wan2.1_i2v_480p_14B"
    return "wan2.1_t2v_14B" if large else "wan2.1_t2v_1.3B"


def _has_references(conds: Any) -> bool:
    if not isinstance(conds, dict):
        return False
    return any("reference_latents" in cond for branch in conds.values() for cond in branch)


def store() -> Store:
    """Where residuals go if the user does not care: off the device in low-memory modes."""
    from comfy import model_management

    low = ("LOW_VRAM", "NO_VRAM")
    return "offload" if model_management.vram_state.name in low else "device"
