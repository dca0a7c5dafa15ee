"""What the examples have in common: MagCache at its recommended settings, notes, results."""

from collections.abc import Sequence
from typing import Any

from magcache.curves import presets

from .files import File
from .graph import BLUE, GREEN, GREY, YELLOW, Group, Node, Output, Workflow

CARE = (
    "Too far from the original? Switch `recommended` off and lower `magcache_thresh` or "
    "`magcache_K`. To see the original, bypass the node (Ctrl+B) and run with the same seed."
)
LOG = "After each run the log says how many evaluations were skipped and what that gained."


def magcache(
    w: Workflow, model: Output, preset: str, model_type: str = "auto", **node: Any
) -> Node:
    """MagCache at the recommended settings, which its widgets show too."""
    values = _widgets(preset)
    return w.node(
        "MagCache", model=model, model_type=model_type, recommended=True, **values, **node
    )


def about_magcache(w: Workflow, preset: str, more: str = "") -> Node:
    """A note on what its settings do."""
    values = _widgets(preset)
    return w.note(
        "What MagCache does here",
        "Most evaluations of the model skip all of its blocks. `recommended` is on: the settings "
        f"published for this model are in force, threshold {values['magcache_thresh']:g}, K "
        f"{values['magcache_K']}, retention {values['retention_ratio']:g}. An evaluation is "
        "skipped while the expected error stays within the threshold, at most K times in a row, "
        f"and never in the first part of the trajectory.\n\n{more}{CARE}\n\n{LOG}",
    )


def prompts(w: Workflow, clip: Output, positive: str, negative: str | None) -> tuple[Node, Node]:
    """Positive and negative conditioning; without a negative prompt, zeros, as FLUX is used."""
    first = w.node("CLIPTextEncode", "Prompt", clip=clip, text=positive, wide=340, high=130)
    if negative is None:
        return first, w.node("ConditioningZeroOut", "No negative prompt", conditioning=first[0])
    node = w.node("CLIPTextEncode", "Negative prompt", clip=clip, text=negative, wide=340, high=110)
    return first, node


def image(w: Workflow, samples: Output, vae: Output, prefix: str, **node: Any) -> list[Node]:
    """Decodes and saves an image."""
    decoded = w.node("VAEDecode", samples=samples, vae=vae, **node)
    saved = w.node(
        "SaveImage", images=decoded[0], filename_prefix=prefix, wide=380, high=420, **node
    )
    return [decoded, saved]


def video(w: Workflow, images: Output, fps: float) -> list[Node]:
    """Makes a video and saves it."""
    made = w.node("CreateVideo", images=images, fps=fps, high=110)
    prefix = f"video/magcache/{w.name}"
    saved = w.node("SaveVideo", video=made[0], filename_prefix=prefix, wide=380, high=420)
    return [made, saved]


def report(w: Workflow, model: Node, after: Output) -> Node:
    """What MagCache did in the sampling that `after` comes from."""
    return w.node("MagCacheReport", model=model[0], after=after, wide=460, high=660)


def start(w: Workflow, note: Node) -> Group:
    """A note, and what to download for the nodes so far."""
    return Group("Start here", GREY, [[*_about_files(w), note]])


def loader(w: Workflow, kind: str, title: str = "", **values: Any) -> Node:
    """A loader, wide enough for the name of a file."""
    return w.node(kind, title, wide=340, **values)


def models(*nodes: Node) -> Group:
    return Group("1 · Models", BLUE, [nodes])


def prompt(*nodes: Node) -> Group:
    return Group("2 · Prompt", YELLOW, [nodes])


def ours(*columns: Sequence[Node]) -> Group:
    return Group("3 · MagCache", GREEN, columns)


def _about_files(w: Workflow) -> list[Node]:
    folders: dict[str, list[File]] = {}
    for file in w.files:
        folders.setdefault(file.folder, []).append(file)
    texts = ["Each file goes into the folder above it; then press R, so that ComfyUI sees it."]
    for folder, inside in folders.items():
        links = "\n".join(f"- [{file.name}]({file.address})" for file in inside)
        texts.append(f"**ComfyUI/models/{folder}**\n\n{links}")
    return [w.note("Files to download", "\n\n".join(texts))] if folders else []


def _widgets(preset: str) -> dict[str, Any]:
    found = presets.load(preset)
    return {
        "magcache_thresh": found.threshold,
        "retention_ratio": found.retention,
        "magcache_K": found.max_skip,
    }
