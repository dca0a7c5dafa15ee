"""Tiny random models of the families, with conditions and latents, inside a running ComfyUI.

`magcache doctor` and the tests try MagCache on them. A new family is one entry of a table.
"""

from .further import FURTHER, NETWORKS, UNFIT
from .model import CPU, DIM, TEXT_TOKENS, Conds, Tiny
from .published import TINY
from .relatives import CAUSAL, FLOW_RVS, RELATIVES
from .sampling import flat, sample, skip_errors

__all__ = [
    "CAUSAL",
    "CPU",
    "DIM",
    "FLOW_RVS",
    "FURTHER",
    "NETWORKS",
    "RELATIVES",
    "TEXT_TOKENS",
    "TINY",
    "UNFIT",
    "Conds",
    "Tiny",
    "every",
    "flat",
    "sample",
    "skip_errors",
]


def every() -> dict[str, Tiny]:
    """Every model that this ComfyUI has, by name."""
    odd = {tiny.name: tiny for tiny in (FLOW_RVS, CAUSAL) if tiny.there}
    return {**TINY, **RELATIVES, **odd, **FURTHER, **UNFIT}
