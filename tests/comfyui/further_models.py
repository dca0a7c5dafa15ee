"""The tiny models of the further families, for the tests."""

from magcache.hosts.comfyui.tiny import FURTHER, NETWORKS, UNFIT
from magcache.hosts.comfyui.tiny import Tiny as Further

__all__ = ["FURTHER", "NETWORKS", "UNFIT", "Further"]
