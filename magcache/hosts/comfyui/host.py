"""The ComfyUI around us: its version, its server, its user folder."""

import sys
from pathlib import Path
from typing import Any

NEEDED = "0.3.52"
"""The first version with a wrapper that is called exactly once an evaluation."""


def version() -> str:
    """Version of ComfyUI."""
    try:
        import comfyui_version

        return comfyui_version.__version__
    except (ImportError, AttributeError):
        return "of unknown version"


def check_version() -> None:
    """Makes sure that the extension points are there, by looking at them and not at a number.

    Raises:
        RuntimeError: They are not; says which version is needed.
    """
    try:
        from comfy.patcher_extension import WrappersMP

        needed = ("OUTER_SAMPLE", "PREDICT_NOISE", "APPLY_MODEL")
        found = all(hasattr(WrappersMP, name) for name in needed)
    except ImportError:
        found = False
    if not found:
        raise RuntimeError(
            f"MagCache needs ComfyUI {NEEDED} or newer, this one is {version()}: update ComfyUI"
        )


def check_model(model: Any) -> None:
    """Makes sure that a MODEL input is a loaded diffusion model.

    Raises:
        TypeError: It is not.
    """
    if not hasattr(getattr(model, "model", None), "diffusion_model"):
        raise TypeError(
            f"the input `model` must be a loaded diffusion model, not {type(model).__name__}: "
            "connect the MODEL output of a loader"
        )


def user_folder() -> Path:
    """Folder of what users make."""
    import folder_paths

    return Path(folder_paths.get_user_directory())


def show(text: str, node_id: str | None) -> None:
    """Shows a text on a node, where there is a server."""
    server = sys.modules.get("server")
    instance = getattr(getattr(server, "PromptServer", None), "instance", None)
    if instance is not None and node_id is not None:
        instance.send_progress_text(text, node_id)
