"""MagCache for ComfyUI: entry point of the node pack. Without ComfyUI it defines no nodes."""

import importlib.util

NODE_CLASS_MAPPINGS: dict[str, type] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
WEB_DIRECTORY = "./web"  # the nodes' help pages

if importlib.util.find_spec("comfy") is not None and __package__:
    from .magcache.hosts.comfyui import neighbours
    from .magcache.hosts.comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

    neighbours.watch(NODE_CLASS_MAPPINGS)

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
