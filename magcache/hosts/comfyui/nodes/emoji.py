"""One node for MagCache's two small trained models: no download, any CPU."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from ....emoji import keywords
from .. import host
from .widgets import entry

log = logging.getLogger("magcache")
PICTURES, CLIPS = "pictures (FLUX)", "clips (Wan 2.1)"
_FOLDERS = {PICTURES: "emoji", CLIPS: "emoji-video"}


class MagCacheEmojiModel:
    """Loads one of the small models, with stand-ins for text encoder and autoencoder."""

    CATEGORY = "MagCache/demo"
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    OUTPUT_TOOLTIPS = (
        "The small model, for any sampler.",
        "A table of words, in place of a text encoder.",
        "Reads the pixels from the latent, in place of an autoencoder.",
    )
    DESCRIPTION = (
        "The small trained models that come with MagCache, for trying the nodes without a "
        "download. They draw 32x32 emoji from up to eight keywords, in seconds on any CPU."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = (
            f"{PICTURES}: needs an empty latent of 128x128. {CLIPS}: eight frames; needs an empty "
            "video latent of 128x128 and length 29."
        )
        return {"required": {"makes": entry([*_FOLDERS], tooltip)}}

    def load(self, makes: str) -> tuple[Any, "Words", "Pixels"]:
        host.check_version()
        name = _FOLDERS[makes]
        folder = keywords.find_folder(name)
        model = (_flux if makes == PICTURES else _wan)(folder / keywords.WEIGHTS[name])
        words = Words(keywords.read(folder), makes == CLIPS)
        return model, words, Pixels(model.get_model_object("latent_format"))


class Words:
    """A table of embeddings in place of a text encoder, with the methods CLIPTextEncode calls."""

    def __init__(self, table: keywords.Keywords, for_wan: bool) -> None:
        self._table, self._for_wan = table, for_wan

    def tokenize(self, text: str, **_: Any) -> str:
        """The words that the model knows; the others are left out and logged."""
        prompt, note = self._table.understood(text)
        if note:
            log.warning("MagCache: %s", note)
        return prompt

    def encode_from_tokens_scheduled(self, tokens: str, **_: Any) -> list[list[Any]]:
        """The conditioning of a prompt of keywords."""
        if self._for_wan:
            return [[self._table.embed([tokens], keywords.WAN_WIDTH), {}]]
        embeds = self._table.embed([tokens])
        return [[embeds, {"pooled_output": embeds.mean(1)}]]


class Pixels:
    """Takes an autoencoder's place: the latent's channels are the pixels of 2x2 blocks."""

    def __init__(self, latent_format: Any) -> None:
        self._format = latent_format  # ComfyUI applies it, though these models do not need it

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Latents (B, 16, H, W) or (B, 16, frames, H, W) to RGB (B, [frames,] 2H, 2W, 3)."""
        latents = self._format.process_in(samples.float())
        frames = latents.transpose(1, 2) if latents.ndim == 5 else latents
        images = F.pixel_shuffle(frames[..., :12, :, :], 2) / 2 + 0.5
        return images.movedim(-3, -1).clamp(0, 1).cpu()


def _flux(path: Path) -> Any:
    """A ModelPatcher, made without ComfyUI's loader: older ones expect 3072 channels of a FLUX."""
    from comfy import model_detection, model_management, model_patcher, supported_models, utils

    weights = model_detection.convert_diffusers_mmdit(utils.load_torch_file(str(path)), "")
    sizes = model_detection.detect_unet_config(weights, "")
    width = weights["img_in.weight"].shape[0]
    sizes |= {
        "hidden_size": width,
        "num_heads": width // sum(sizes["axes_dim"]),
        "context_in_dim": weights["txt_in.weight"].shape[1],
        "vec_in_dim": weights["vector_in.in_layer.weight"].shape[1],
    }
    config = supported_models.Flux(sizes)
    config.sampling_settings = {"shift": 0.0}  # as it was trained: evenly spaced noise levels
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(weights, "")
    model.load_model_weights(weights, "")
    return model_patcher.ModelPatcher(
        model, model_management.get_torch_device(), model_management.unet_offload_device()
    )


def _wan(path: Path) -> Any:
    from comfy import sd

    return sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})
