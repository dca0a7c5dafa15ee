"""Tiny random models of the families without a published curve, with all that they are given.

Which of them there are depends on ComfyUI's version.
"""

import importlib
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from .further_sizes import SIZES
from .model import IMAGE, POOLED, TEXT, VIDEO, Given, Noise, Tiny, nothing
from .published import DOUBLE_SINGLE, FLUX_PARAMS, HUNYUAN_PARAMS


def _fill_buffers(network: nn.Module) -> None:
    """With what a checkpoint would hold."""
    values = torch.Generator().manual_seed(5)
    for name, buffer in network.named_buffers():
        if name in ("pos_embed", "rope.inv_freq"):
            buffer.copy_(torch.rand(buffer.shape, generator=values))


def _small_adapter() -> Any:
    """Anima's text adapter has one size: half a gigabyte."""
    model = importlib.import_module("comfy.ldm.anima.model")
    sizes = {"source_dim": TEXT, "target_dim": TEXT, "model_dim": TEXT, "num_layers": 1}
    small = partial(model.LLMAdapter, **sizes, num_heads=2)
    return patch.object(model, "LLMAdapter", small)


def _mask(tokens: int, padding: int = 0) -> torch.Tensor:
    mask = torch.ones(1, tokens, dtype=torch.int64)
    mask[:, tokens - padding :] = 0
    return mask


def _masked(_noise: Noise, tokens: int) -> dict[str, Any]:
    return {"attention_mask": _mask(tokens)}


def _padded(_noise: Noise, tokens: int) -> dict[str, Any]:
    return {"attention_mask": _mask(tokens, 2)}


def _references(noise: Noise, tokens: int) -> dict[str, Any]:
    latents = [noise(1, 16, 6, 8), noise(1, 16, 4, 2)]
    return {**_masked(noise, tokens), "reference_latents": latents}


def _references_at_zero(noise: Noise, tokens: int) -> dict[str, Any]:
    """Their tokens are at another timestep than the image's."""
    method = {"reference_latents_method": "index_timestep_zero"}
    return {**_references(noise, tokens), **method}


def _pictures(noise: Noise, _tokens: int) -> dict[str, Any]:
    return {"reference_latents": [noise(1, 16, 1, 6, 8)]}


def _omni(noise: Noise, tokens: int) -> dict[str, Any]:
    """Each reference with its text, and with what a vision tower sees."""
    seen = [
        SimpleNamespace(last_hidden_state=noise(1, 4, 12), image_sizes=[(3, 32, 32)])
        for _ in range(2)
    ]
    texts = [noise(1, 5, TEXT), noise(1, 3, TEXT)]
    more = {"reference_latents_text_embeds": texts, "clip_vision_outputs": seen}
    return {**_references(noise, tokens), **more}


def _glyphs(noise: Noise, _tokens: int) -> dict[str, Any]:
    return {"conditioning_byt5small": noise(1, 4, 1472)}


def _llama(noise: Noise, tokens: int) -> dict[str, Any]:
    return {"conditioning_llama3": noise(1, 2, tokens, 40)}


def _hydit(noise: Noise, tokens: int) -> dict[str, Any]:
    t5 = {"conditioning_mt5xl": noise(1, 5, 16), "attention_mask_mt5xl": _mask(5, 1)}
    return {**t5, "attention_mask": _mask(tokens, 2)}


def _ids(_noise: Noise, tokens: int) -> dict[str, Any]:
    return {"t5xxl_ids": torch.arange(tokens), "t5xxl_weights": torch.ones(tokens)}


def _tokens(_noise: Noise, tokens: int) -> dict[str, Any]:
    return {"text_input_ids": torch.arange(tokens)[None]}


def _image(noise: Noise, _tokens: int) -> dict[str, Any]:
    return {"concat_latent_image": noise(1, 16, 2, 8, 8)}


def _frame(_noise: Noise, _tokens: int) -> dict[str, Any]:
    """The first frame is given: each frame has its own timestep."""
    mask = torch.ones(1, 1, 2, 8, 8)
    mask[:, :, :1] = 0
    return {"concat_mask": mask}


def _start(noise: Noise, tokens: int) -> dict[str, Any]:
    return {**_frame(noise, tokens), "time_dim_replace": noise(1, 16, 1, 8, 8)}


def _keyframe(noise: Noise, _tokens: int) -> dict[str, Any]:
    last = {"resolved_frame_index": 1, "latent": noise(1, 24, 1, 4, 4)}
    return {"minimax_keyframes": [last]}


_SMALL, _STILL, _SDXL, _LTX = (1, 16, 4, 4), (1, 16, 1, 8, 8), (1, 4, 8, 8), (1, 128, 2, 4, 4)
_BLOCKS, _LAYERS, _TRANSFORMER = ("blocks",), ("layers",), ("transformer_blocks",)
_HIDREAM = ("double_stream_blocks", "single_stream_blocks")
_BOOGU = ("double_stream_layers", "single_stream_layers")
_PIXELDIT = ("patch_blocks", "pixel_blocks")
_KANDINSKY = ("visual_transformer_blocks",)

_PARAMS = {
    "Flux": FLUX_PARAMS,
    "HunyuanVideo": HUNYUAN_PARAMS,
    "ChromaRadiance": "chroma_radiance.model.ChromaRadianceParams",
}


def _model(
    name: str,
    config: str,
    network: str,
    lists: tuple[str, ...],
    shape: tuple[int, ...] = IMAGE,
    given: Given = nothing,
    pooled: int = 0,
    audio: tuple[int, ...] = (),
) -> Tiny:
    build = {"prepare": _fill_buffers, "around": _small_adapter if name == "anima" else nullcontext}
    return Tiny(
        name, config, network, lists, shape, TEXT, pooled, SIZES[name], given, audio,
        params=_PARAMS.get(network, ""), **build,
    )  # fmt: skip


_ALL = (
    _model("sd3", "SD3", "OpenAISignatureMMDITWrapper", ("joint_blocks",), pooled=POOLED),
    _model("auraflow", "AuraFlow", "MMDiT", ("double_layers", "single_layers"), _SDXL),
    _model("pixart", "PixArtSigma", "PixArtMS", _BLOCKS, (1, 4, 4, 64)),
    _model("hunyuan_dit", "HunyuanDiT", "HunYuanDiT", _BLOCKS, _SDXL, _hydit),
    _model("flux2", "Flux2", "Flux", DOUBLE_SINGLE, _SMALL, _references),
    _model(
        "hunyuan_image", "HunyuanImage21", "HunyuanVideo", DOUBLE_SINGLE, (1, 64, 4, 4), _glyphs
    ),
    _model("longcat", "LongCatImage", "Flux", DOUBLE_SINGLE),
    _model("mochi", "GenmoMochi", "AsymmDiTJoint", _BLOCKS, (1, 12, 2, 8, 8), _padded),
    _model("ltxv", "LTXV", "LTXVModel", _TRANSFORMER, _LTX, _padded),
    _model("ltx2", "LTXAV", "LTXAVModel", _TRANSFORMER, _LTX, audio=(1, 8, 5, 16)),
    _model("cosmos_predict2", "CosmosT2IPredict2", "MiniTrainDIT", _BLOCKS, _STILL),
    _model("cosmos_predict2_i2v", "CosmosI2VPredict2", "MiniTrainDIT", _BLOCKS, VIDEO, _frame),
    _model("anima", "Anima", "Anima", _BLOCKS, _STILL, _ids),
    _model("lumina2", "Lumina2", "NextDiT", _LAYERS, given=_masked),
    _model("z_image", "ZImage", "NextDiT", _LAYERS, given=_masked),
    _model("z_image_omni", "ZImage", "NextDiT", _LAYERS, given=_omni),
    _model(
        "z_image_pixel", "ZImagePixelSpace", "NextDiTPixelSpace", _LAYERS, (1, 3, 8, 8), _masked
    ),
    _model("hidream", "HiDream", "HiDreamImageTransformer2DModel", _HIDREAM, IMAGE, _llama, POOLED),
    _model("omnigen2", "Omnigen2", "OmniGen2Transformer2DModel", _LAYERS, given=_references),
    _model("boogu", "Boogu", "BooguTransformer2DModel", _BOOGU, given=_references),
    _model("kandinsky5", "Kandinsky5", "Kandinsky5", _KANDINSKY, VIDEO, _start, POOLED),
    _model("krea2", "Krea2", "SingleStreamDiT", _BLOCKS, given=_references_at_zero),
    _model("ernie", "ErnieImage", "ErnieImageModel", _LAYERS),
    _model(
        "minimax_h3",
        "MiniMaxH3",
        "MiniMaxH3Model",
        _BLOCKS,
        (1, 24, 2, 4, 4),
        _keyframe,
        audio=(1, 32, 2, 5),
    ),
    _model("cogvideox", "CogVideoX_T2V", "CogVideoXTransformer3DModel", _BLOCKS, VIDEO),
    _model("cogvideox_i2v", "CogVideoX_I2V", "CogVideoXTransformer3DModel", _BLOCKS, VIDEO, _image),
    _model("lens", "Lens", "LensTransformer2DModel", _TRANSFORMER, (1, 128, 4, 4), _padded),
    _model(
        "mage_flow", "MageFlow", "MageFlowTransformer2DModel", _TRANSFORMER, _SMALL, _references
    ),
    _model(
        "joyimage", "JoyImage", "JoyImageTransformer3DModel", ("double_blocks",), _STILL, _pictures
    ),
    _model("ideogram4", "Ideogram4", "Ideogram4Transformer2DModel", _LAYERS, _SMALL, _padded),
    _model("pixeldit", "PixelDiTT2I", "PixDiT_T2I", _PIXELDIT, (1, 3, 16, 16)),
)
_UNFIT = (
    _model("cosmos1", "CosmosT2V", "GeneralDIT", (), VIDEO),
    _model(
        "chroma_radiance", "ChromaRadiance", "ChromaRadiance", (), (1, 3, 16, 16), pooled=POOLED
    ),
    _model("hidream_o1", "HiDreamO1", "HiDreamO1Transformer", (), (1, 3, 64, 64), _tokens),
)
NETWORKS = {each.network for each in _ALL}
"""Class names, also of those that this ComfyUI does not have."""
FURTHER, UNFIT = ({each.name: each for each in models if each.there} for models in (_ALL, _UNFIT))
