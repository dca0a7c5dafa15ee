"""The tiny relatives of Wan, for the tests."""

from magcache.hosts.comfyui.tiny import CAUSAL, FLOW_RVS, RELATIVES

__all__ = ["CAUSAL", "FLOW_RVS", "RELATIVES"]
