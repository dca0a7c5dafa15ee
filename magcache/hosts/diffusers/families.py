"""Which modules of diffusers' transformers are blocks, and which one is behind them."""

from ...families import Family

_DOUBLE_SINGLE = ("transformer_blocks", "single_transformer_blocks")
_NORM = ("norm_out",)

FAMILIES = {
    "ChromaTransformer2DModel": Family("chroma", _DOUBLE_SINGLE, _NORM),
    "FluxTransformer2DModel": Family("flux", _DOUBLE_SINGLE, _NORM),
    "HunyuanVideo15Transformer3DModel": Family("hunyuan_video_1.5", _DOUBLE_SINGLE, _NORM),
    "HunyuanVideoFramepackTransformer3DModel": Family("framepack", _DOUBLE_SINGLE, _NORM),
    "HunyuanVideoTransformer3DModel": Family("hunyuan_video", _DOUBLE_SINGLE, _NORM),
    "QwenImageTransformer2DModel": Family("qwen_image", _DOUBLE_SINGLE, _NORM),
    "WanTransformer3DModel": Family("wan", ("blocks",), _NORM),
    "WanVACETransformer3DModel": Family("wan_vace", ("blocks", "vace_blocks"), _NORM),
}
"""By class name of the transformer. A new family is one entry."""

GUESSES = (
    Family("unknown", _DOUBLE_SINGLE, _NORM),
    Family("unknown", ("blocks",), _NORM),
    Family("unknown", ("blocks",), ("head",)),
    Family("unknown", ("layers",), _NORM),
)
"""Tried in this order on a class that is not in the table; the first that is found is used."""
