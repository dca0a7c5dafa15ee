"""Which modules of diffusers' transformers are blocks, and which one is behind them."""

from dataclasses import dataclass

from torch import nn

from magcache.stack import BlockStack, StackNotFound


@dataclass(frozen=True)
class Family:
    """How the transformers of one family are built.

    Attributes:
        name: The family's name, as presets give it.
        lists: Names of the block lists, the one with the first block in front.
        heads: Names of the modules that first see the blocks' output.
    """

    name: str
    lists: tuple[str, ...]
    heads: tuple[str, ...] = ("norm_out",)


_DOUBLE_SINGLE = ("transformer_blocks", "single_transformer_blocks")

FAMILIES = {
    "ChromaTransformer2DModel": Family("chroma", _DOUBLE_SINGLE),
    "FluxTransformer2DModel": Family("flux", _DOUBLE_SINGLE),
    "HunyuanVideo15Transformer3DModel": Family("hunyuan_video_1.5", _DOUBLE_SINGLE),
    "HunyuanVideoFramepackTransformer3DModel": Family("framepack", _DOUBLE_SINGLE),
    "HunyuanVideoTransformer3DModel": Family("hunyuan_video", _DOUBLE_SINGLE),
    "QwenImageTransformer2DModel": Family("qwen_image", _DOUBLE_SINGLE),
    "WanTransformer3DModel": Family("wan", ("blocks",)),
    "WanVACETransformer3DModel": Family("wan_vace", ("blocks", "vace_blocks")),
}
"""By class name of the transformer. A new family is one entry."""

_GUESSES = (
    Family("unknown", _DOUBLE_SINGLE),
    Family("unknown", ("blocks",)),
    Family("unknown", ("blocks",), ("head",)),
    Family("unknown", ("layers",), ("norm_out",)),
)
"""Tried in this order on a class that is not in the table; the first that is found is used."""


def family_of(transformer: nn.Module) -> Family | None:
    """The family of a transformer, or None where its class is not in the table."""
    kinds = (kind.__name__ for kind in type(transformer).__mro__)
    return next((FAMILIES[kind] for kind in kinds if kind in FAMILIES), None)


def find_stack(transformer: nn.Module) -> BlockStack:
    """The block stack of a transformer.

    Raises:
        StackNotFound: Nothing that the table or the guesses name is there.
    """
    family = family_of(transformer)
    for guess in (family,) if family else _GUESSES:
        try:
            return BlockStack(transformer, guess.lists, guess.heads)
        except StackNotFound:
            if family:
                raise
    raise StackNotFound(f"{type(transformer).__name__} has no block list and head that are known")
