"""diffusers' transformers: one row each, with the block lists and the head after them.

A preset fits the transformers of the family that it names. CONTRIBUTING.md says how to add a
model.
"""

from ...blocks import Family

_DOUBLE_SINGLE = ("transformer_blocks", "single_transformer_blocks")
_TRANSFORMER = ("transformer_blocks",)
_BLOCKS = ("blocks",)
_LAYERS = ("layers",)
_AURAFLOW = ("joint_transformer_blocks", "single_transformer_blocks")
_FLUX3 = (
    "mode_blocks.image", "mode_blocks.image_cond", "txt_mode_blocks", "single_transformer_blocks",
)  # fmt: skip
_HIDREAM = ("double_stream_blocks", "single_stream_blocks")
_FINAL = ("final_layer",)
_NORM = ("norm_out",)

FAMILIES = {
    "ChromaTransformer2DModel": Family("chroma", _DOUBLE_SINGLE, _NORM),
    "FluxTransformer2DModel": Family("flux", _DOUBLE_SINGLE, _NORM),
    "HunyuanVideo15Transformer3DModel": Family("hunyuan_video_1.5", _DOUBLE_SINGLE, _NORM),
    "HunyuanVideoFramepackTransformer3DModel": Family("framepack", _DOUBLE_SINGLE, _NORM),
    "HunyuanVideoTransformer3DModel": Family("hunyuan_video", _DOUBLE_SINGLE, _NORM),
    "HunyuanVideoTransformer3DModelPacked": Family("framepack", _DOUBLE_SINGLE, _NORM),
    "QwenImageTransformer2DModel": Family("qwen_image", _DOUBLE_SINGLE, _NORM),
    "WanTransformer3DModel": Family("wan", _BLOCKS, _NORM),
    "WanVACETransformer3DModel": Family("wan_vace", ("blocks", "vace_blocks"), _NORM),
    "AuraFlowTransformer2DModel": Family("auraflow", _AURAFLOW, _NORM),
    "BriaFibo2Transformer2DModel": Family("fibo2", _LAYERS, _FINAL),
    "BriaTransformer2DModel": Family("bria", _DOUBLE_SINGLE, _NORM),
    "CogVideoXTransformer3DModel": Family("cogvideox", _TRANSFORMER, ("norm_final",)),
    "CogView4Transformer2DModel": Family("cogview4", _TRANSFORMER, _NORM),
    "CosmosTransformer3DModel": Family("cosmos", _TRANSFORMER, _NORM),
    "ErnieImageTransformer2DModel": Family("ernie", _LAYERS, ("final_norm",)),
    "Flux2Transformer2DModel": Family("flux2", _DOUBLE_SINGLE, _NORM),
    "Flux3Transformer2DModel": Family("flux3", _FLUX3, _NORM),
    "HiDreamImageTransformer2DModel": Family("hidream", _HIDREAM, _FINAL),
    "HunyuanDiT2DModel": Family("hunyuan_dit", _BLOCKS, _NORM),
    "Ideogram4Transformer2DModel": Family("ideogram4", _LAYERS, _FINAL),
    "JoyImageEditTransformer3DModel": Family("joyimage", ("double_blocks",), _NORM),
    "Kandinsky5Transformer3DModel": Family(
        "kandinsky5", ("visual_transformer_blocks",), ("out_layer",)
    ),
    "Krea2Transformer2DModel": Family("krea2", _TRANSFORMER, _FINAL),
    "LTX2VideoTransformer3DModel": Family("ltx2", _TRANSFORMER, ("norm_out", "audio_norm_out")),
    "LTXVideoTransformer3DModel": Family("ltxv", _TRANSFORMER, _NORM),
    "Lumina2Transformer2DModel": Family("lumina2", _LAYERS, _NORM),
    "MiniMaxH3Transformer3DModel": Family("minimax_h3", _TRANSFORMER, _NORM),
    "MochiTransformer3DModel": Family("mochi", _TRANSFORMER, _NORM),
    "OmniGenTransformer2DModel": Family("omnigen", _LAYERS, ("norm",)),
    "PRXTransformer2DModel": Family("prx", _BLOCKS, _FINAL),
    "PixArtTransformer2DModel": Family("pixart", _TRANSFORMER, _NORM),
    "SD3Transformer2DModel": Family("sd3", _TRANSFORMER, _NORM),
    "SanaTransformer2DModel": Family("sana", _TRANSFORMER, _NORM),
    "ZImageTransformer2DModel": Family("z_image", _LAYERS, ("all_final_layer.2-1",)),
}
"""The families, by class name of the transformer."""

GUESSES = (
    Family("unknown", _DOUBLE_SINGLE, _NORM),
    Family("unknown", _BLOCKS, _NORM),
    Family("unknown", _BLOCKS, ("head",)),
    Family("unknown", _LAYERS, _NORM),
)
"""Tried in this order for a class that is not in the table; the first match is used."""
