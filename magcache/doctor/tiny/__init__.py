"""Tiny random models with their conditions and latents, inside a running ComfyUI.

`magcache doctor` and the tests run MagCache on them. Which of them exist depends on ComfyUI's
version.
"""

from .images import IMAGES
from .model import DIM, TEXT_TOKENS, Conds, Tiny
from .sampling import flat, sample, skip_errors
from .videos import VIDEOS

__all__ = ["ALL", "DIM", "EVERY", "TEXT_TOKENS", "Conds", "Tiny", "flat", "sample", "skip_errors"]

ALL = (*IMAGES, *VIDEOS)
EVERY = {tiny.name: tiny for tiny in ALL if tiny.there}
