"""Tiny random models, one entry each, with conditions and latents, inside a running ComfyUI.

`magcache doctor` and the tests try MagCache on them. Which of them there are depends on ComfyUI's
version.
"""

from ...hosts.comfyui import models
from .images import IMAGES
from .model import DIM, TEXT_TOKENS, Conds, Tiny
from .sampling import flat, sample, skip_errors
from .videos import VIDEOS

__all__ = [
    "ALL",
    "DIM",
    "EVERY",
    "FURTHER",
    "RELATIVES",
    "TEXT_TOKENS",
    "TINY",
    "UNFIT",
    "Conds",
    "Tiny",
    "flat",
    "sample",
    "skip_errors",
]

ALL = (*IMAGES, *VIDEOS)
EVERY = {tiny.name: tiny for tiny in ALL if tiny.there}
_FOLLOWING = {row.kind for row in models.MODELS if row.follows}

TINY = {name: tiny for name, tiny in EVERY.items() if tiny.types}
"""Those with a published curve."""
RELATIVES = {name: t for name, t in EVERY.items() if _FOLLOWING & {t.config, t.network}}
"""Those that follow the curve of another."""
UNFIT = {name: tiny for name, tiny in EVERY.items() if tiny.network in models.UNFIT}
"""Those whose blocks must not be skipped."""
FURTHER = {n: t for n, t in EVERY.items() if n not in {**TINY, **RELATIVES, **UNFIT}}
"""The others: they are measured first."""
