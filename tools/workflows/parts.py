"""Parts that the examples share: loaders, MagCache behind them, notes, results."""

from collections.abc import Sequence
from typing import Any

from .files import File
from .graph import BLUE, GREEN, GREY, YELLOW, Group, Node, Output, Workflow

SPEEDUP = 2.0
_DOWNLOAD = "Put each file into the folder named above it, then press **R**."


def faster(w: Workflow, model: Output, title: str = "") -> Node:
    """Adds MagCache at twice the speed."""
    return w.node("MagCacheTargetSpeed", title, model=model, speedup=SPEEDUP)


def prompts(w: Workflow, clip: Output, positive: str, negative: str | None) -> tuple[Node, Node]:
    """Positive and negative conditioning; without a negative prompt, zeros, as FLUX needs it."""
    first = w.node("CLIPTextEncode", "Prompt", clip=clip, text=positive, high=150)
    if negative is None:
        return first, zeros(w, first[0])
    return first, w.node("CLIPTextEncode", "Negative prompt", clip=clip, text=negative, high=100)


def zeros(w: Workflow, condition: Output) -> Node:
    """Zeros in place of a negative prompt."""
    title = "No negative prompt"
    return w.node("ConditioningZeroOut", title, conditioning=condition, collapsed=True)


def given(w: Workflow, title: str) -> Node:
    """Loads an image to start from."""
    return w.node("LoadImage", title, image="example.png", high=310)


def sampled(
    w: Workflow, model: Output, conditions: tuple[Output, Output], latent: Output,
    steps: int, cfg: float, sampler: str = "euler", scheduler: str = "simple",
) -> Node:  # fmt: skip
    return w.node(
        "KSampler", model=model, positive=conditions[0], negative=conditions[1],
        latent_image=latent, seed=1, steps=steps, cfg=cfg, sampler_name=sampler,
        scheduler=scheduler,
    )  # fmt: skip


def guided(
    w: Workflow, guider: Node, sigmas: Node, latent: Output, sampler: str = "euler"
) -> list[Node]:
    """Samples with a guider; the last node is the sampler."""
    noise = w.node("RandomNoise", "Seed", noise_seed=1)
    chosen = w.node("KSamplerSelect", sampler_name=sampler)
    ran = w.node(
        "SamplerCustomAdvanced", noise=noise[0], guider=guider[0], sampler=chosen[0],
        sigmas=sigmas[0], latent_image=latent,
    )  # fmt: skip
    return [noise, guider, chosen, sigmas, ran]


def basic_sigmas(w: Workflow, model: Output, steps: int, scheduler: str = "simple") -> Node:
    return w.node("BasicScheduler", "Steps", model=model, scheduler=scheduler, steps=steps)


def image(w: Workflow, samples: Output, vae: Output) -> list[Node]:
    """Decodes and saves an image."""
    decoded = w.node("VAEDecode", samples=samples, vae=vae, collapsed=True)
    prefix = f"magcache/{w.name}"
    return [decoded, w.node("SaveImage", images=decoded[0], filename_prefix=prefix, high=330)]


def video(w: Workflow, images: Output, fps: float, audio: Output | None = None) -> list[Node]:
    """Makes a video and saves it."""
    sound: dict[str, Any] = {"audio": audio} if audio else {}
    made = w.node("CreateVideo", images=images, fps=fps, high=110, **sound)
    prefix = f"video/magcache/{w.name}"
    return [made, w.node("SaveVideo", video=made[0], filename_prefix=prefix, high=330)]


def start(w: Workflow, computed: int, steps: int, more: str = "", two: bool = False) -> Group:
    """A note: what to download for the nodes so far, and what the first run does.

    Args:
        computed: Number of steps that the first run computes.
        steps: Number of all steps.
        more: A further remark.
        two: Whether there are two MagCache nodes.
    """
    nodes = "Both **MagCache** nodes are" if two else "**MagCache** is"
    few = f" That is {steps / computed:.1f}x, the most that so few steps allow."
    nodes_off = "both" if two else "MagCache"
    text = (
        f"{w.needs}## 1. Download\n{_DOWNLOAD}\n\n{_files(w)}\n\n## 2. Press Run\n{nodes} set to "
        f"twice the speed. The first run computes {computed} of {steps} steps and predicts the "
        f"others; nothing has to be measured first.{few if computed > 0.6 * steps else ''}{more}"
        f"\n\n## 3. Compare\nBypass {nodes_off} (Ctrl+B) and run again: the seed stays the same. "
        "Too far from the original? Lower `speedup`."
    )
    return Group("Start here", GREY, [[w.note("How to use this", text)]])


def about(w: Workflow, text: str) -> Group:
    """A note on what to download, for an example of another node than MagCache."""
    text = f"## 1. Download\n{_DOWNLOAD}\n\n{_files(w)}\n\n## 2. Press Run\n{text}"
    return Group("Start here", GREY, [[w.note("How to use this", text)]])


def loader(w: Workflow, kind: str, title: str = "", **values: Any) -> Node:
    """A loader, wide enough for the name of a file."""
    return w.node(kind, title, wide=290, **values)


def models(*nodes: Node) -> Group:
    """Loaders; MagCache goes right below the last one."""
    return Group("Models", BLUE, [nodes])


def prompt(*nodes: Node) -> Group:
    return Group("Prompt", YELLOW, [nodes])


def ours(*nodes: Node) -> Group:
    return Group("MagCache", GREEN, [nodes])


def sample(*columns: Sequence[Node]) -> Group:
    return Group("Sample", BLUE, columns)


def _files(w: Workflow) -> str:
    folders: dict[str, list[File]] = {}
    for file in dict.fromkeys(w.files):
        folders.setdefault(file.folder, []).append(file)
    texts = []
    for folder, inside in folders.items():
        links = "\n".join(f"- [{file.name}]({file.address})" for file in inside)
        texts.append(f"**ComfyUI/models/{folder}**\n\n{links}")
    return "\n\n".join(texts)
