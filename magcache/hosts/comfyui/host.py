"""The ComfyUI that MagCache runs in: its version, its models, its page."""

import logging
import os
import sys
from typing import Any

log = logging.getLogger("magcache")
OTHER_CACHE = "easycache"  # key under which ComfyUI's EasyCache and LazyCache keep their state
NEEDED = "0.3.52"
"""The first version with a wrapper that is called exactly once per evaluation."""


def version() -> str:
    """ComfyUI's version."""
    try:
        import comfyui_version

        return comfyui_version.__version__
    except (ImportError, AttributeError):
        return "of unknown version"


def check_version() -> None:
    """Checks that ComfyUI has the extension points, whatever its version number.

    Raises:
        RuntimeError: One is missing; the message names the version needed.
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
    """Checks that a MODEL input is a loaded diffusion model, and that ComfyUI is new enough.

    Raises:
        RuntimeError: ComfyUI is too old.
        TypeError: The input is something else.
    """
    check_version()
    if not hasattr(getattr(model, "model", None), "diffusion_model"):
        raise TypeError(
            f"the input `model` must be a loaded diffusion model, not {type(model).__name__}: "
            "connect the MODEL output of a loader"
        )


def described(guider: Any, sampler: Any, sigmas: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """A run's settings, as far as they are known here, in JSON types.

    The scheduler's name is not known here; the noise levels show its effect.
    """
    from comfy.samplers import CFGGuider

    function = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    name = function.removeprefix("sample_").removesuffix("_function") or type(sampler).__name__
    numbers = {k: v for k, v in vars(guider).items() if isinstance(v, int | float)}
    scales = {name: value for name, value in numbers.items() if name.startswith("cfg")}
    if type(guider).predict_noise is not CFGGuider.predict_noise:
        scales.pop("cfg", None)  # a default that such a guider may not use
    shift = getattr(guider.model_patcher.get_model_object("model_sampling"), "shift", None)
    return {
        "host": f"ComfyUI {version()}",
        "sampler": name,
        "guider": type(guider).__name__,
        **scales,
        **({"shift": float(shift)} if isinstance(shift, int | float) else {}),
        "latent": list(shape),
        "sigmas": [float(sigma) for sigma in sigmas],
    }


def file_of(patcher: Any) -> str:
    """Name of the file a model was loaded from, in lower case; "" if ComfyUI does not keep it."""
    made_by = getattr(patcher, "cached_patcher_init", None)
    path = made_by[1][0] if made_by and made_by[1] else ""
    return os.path.basename(path).lower() if isinstance(path, str) else ""


def is_plain_euler(sampler: Any) -> bool:
    """Whether the sampler is Euler's method without added noise."""
    from comfy.k_diffusion.sampling import sample_euler

    plain = not getattr(sampler, "extra_options", {}).get("s_churn")
    return getattr(sampler, "sampler_function", None) is sample_euler and plain


def show(text: str, node_id: str | None) -> None:
    """Shows a text on a node in the page that queued the workflow, if there is a server."""
    server = sys.modules.get("server")
    instance = getattr(getattr(server, "PromptServer", None), "instance", None)
    if instance is not None and node_id is not None:
        breaks = text.replace("\n", "  \n")  # newer pages show Markdown
        instance.send_progress_text(breaks, node_id, instance.client_id)


def uncached(model: Any, reason: str, node_id: str | None) -> Any:
    """Returns the model unchanged, and warns in the log and on the node."""
    log.warning("MagCache: the model runs uncached: %s", reason)
    show(f"runs uncached: {reason}", node_id)
    return model


def preview(pictures: Any) -> dict[str, Any]:
    """The `ui` value with which a node shows an IMAGE batch on itself."""
    from comfy_api.latest import ui

    return ui.PreviewImage(pictures).as_dict()
