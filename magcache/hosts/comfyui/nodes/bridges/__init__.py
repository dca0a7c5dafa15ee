"""Nodes for packs that sample with models of their own; they import nothing of these packs."""

from .framepack import MagCacheFramePackWrapper
from .wanvideo import MagCacheWanVideoWrapper

NODES: dict[str, tuple[type, str]] = {
    "MagCacheWanVideoWrapper": (MagCacheWanVideoWrapper, "MagCache for WanVideoWrapper"),
    "MagCacheFramePackWrapper": (MagCacheFramePackWrapper, "MagCache for FramePackWrapper"),
}
"""Class and title of each node, by its id."""
