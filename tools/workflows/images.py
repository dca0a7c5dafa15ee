"""The examples for image models."""

from typing import Any

from . import files, parts
from .graph import BLUE, GREEN, YELLOW, Group, Node, Output, Workflow

LANDSCAPE = (
    "A small lighthouse on a rocky island at dusk, warm light in its windows, long exposure of "
    "the sea, thin fog, a rowing boat tied to a wooden pier in the foreground."
)
POOR = "low quality, blurry, out of focus, deformed, unfinished, flat colors"
FLUX_SAMPLING = (
    "Euler, `simple`, 28 steps, CFG 1, guidance 3.5. Any number of steps and any sampler works "
    "with MagCache; below nine steps less is gained.\n\n"
)
CHROMA_SAMPLING = (
    "40 steps and CFG 3 as its maker uses it; Euler, `beta` and shift 1 as in ComfyUI's template."
    "\n\n"
)
Loaders = tuple[Node, Node, Node]


def flux(w: Workflow) -> None:
    loaders = _flux_loaders(w, files.FLUX)
    cached = parts.magcache(w, loaders[0][0], "flux")
    _from_text(w, loaders, [cached], parts.about_magcache(w, "flux", FLUX_SAMPLING))


def flux_compile(w: Workflow) -> None:
    loaders = _flux_loaders(w, files.FLUX)
    compiled = w.node("CompileModel", model=loaders[0][0], mode="default", backend="inductor")
    cached = parts.magcache(w, compiled[0], "flux")
    more = (
        "**Compile Model** compiles the blocks with `torch.compile` and leaves the rest as it is, "
        "so skipping and compiling go together. The first run at a new size takes longer: that is "
        "when it compiles. It needs a GPU with Triton.\n\n"
    )
    note = parts.about_magcache(w, "flux", more + FLUX_SAMPLING)
    _from_text(w, loaders, [compiled, cached], note)


def target_speed(w: Workflow) -> None:
    loaders = _flux_loaders(w, files.FLUX)
    cached = w.node("MagCacheTargetSpeed", model=loaders[0][0], speedup=2.0)
    text = (
        "Every run of this model, the first one too, with any prompt and seed, is faster by "
        "`speedup`.\n\n"
        "There is nothing else to set: which evaluations are computed is chosen beforehand, for "
        "the least error, and the others are predicted. It works with any model. "
        f"Too far from the original? Lower `speedup`.\n\n{FLUX_SAMPLING}{parts.LOG}"
    )
    _from_text(w, loaders, [cached], w.note("What happens here", text), reports=True)


def flux_kontext(w: Workflow) -> None:
    model, clip, vae = loaders = _flux_loaders(w, files.KONTEXT)
    cached = parts.magcache(w, model[0], "flux_kontext")
    given = w.node("LoadImage", "Image to change", image="example.png", wide=260, high=350)
    scaled = w.node("FluxKontextImageScale", image=given[0])
    encoded = w.node("VAEEncode", pixels=scaled[0], vae=vae[0])
    text = w.node(
        "CLIPTextEncode", "What to change", clip=clip[0], high=110, wide=340,
        text="Make it night, with a clear sky full of stars. Keep everything else as it is.",
    )  # fmt: skip
    referring = w.node("ReferenceLatent", conditioning=text[0], latent=encoded[0])
    guided = w.node("FluxGuidance", conditioning=referring[0], guidance=2.5)
    none = w.node("ConditioningZeroOut", "No negative prompt", conditioning=text[0])
    sampler = _sampler(w, cached[0], (guided[0], none[0]), encoded[0], steps=30, cfg=1.0)
    more = (
        "`auto` sees the reference latent and takes Kontext's own curve.\n\nEuler, `simple`, 30 "
        "steps, CFG 1, guidance 2.5, as its makers use it.\n\n"
    )
    notes = parts.start(w, parts.about_magcache(w, "flux_kontext", more))
    image = Group("4 · Image", YELLOW, [[given], [scaled, encoded, referring, guided]])
    w.lay_out(
        [notes],
        [parts.models(*loaders), parts.prompt(text, none)],
        [parts.ours([cached]), image],
        [_result(w, sampler, vae, "5 · Sample")],
    )


def chroma(w: Workflow) -> None:
    model, clip, vae = loaders = _chroma_loaders(w)
    shifted = w.node("ModelSamplingAuraFlow", "Shift", model=model[0], shift=1.0)
    cached = parts.magcache(w, shifted[0], "chroma")
    conditions, latent, prompt = _prompt_and_size(w, clip, POOR, 1024)
    sampler = _chroma_sampler(w, cached, conditions, latent)
    notes = parts.start(w, parts.about_magcache(w, "chroma", CHROMA_SAMPLING))
    w.lay_out(
        [notes],
        [parts.models(*loaders), prompt],
        [parts.ours([shifted, cached])],
        [_result(w, sampler, vae)],
    )


def chroma_calibration(w: Workflow) -> None:
    model, clip, vae = loaders = _chroma_loaders(w)
    shifted = w.node("ModelSamplingAuraFlow", "Shift", model=model[0], shift=1.0)
    conditions, latent, prompt = _prompt_and_size(w, clip, POOR, 1024)
    measured = w.node("MagCacheCalibration", model=shifted[0])
    first = _chroma_sampler(w, measured, conditions, latent, control="fixed")
    result = parts.image(w, first[0], vae[0], "magcache/chroma_measured")
    cached = parts.magcache(w, shifted[0], "chroma", muted=True)
    second = _chroma_sampler(w, cached, conditions, latent, control="fixed", muted=True)
    again = parts.image(w, second[0], vae[0], "magcache/chroma_calibrated", muted=True)
    text = (
        "For a fine-tune, or a model without a published curve: measure its own.\n\n"
        "1. Run. It is one ordinary sampling, nothing is skipped; the node and the log say which "
        "file was written to `ComfyUI/user/magcache`.\n"
        "2. Select the nodes of group 4, unmute them (Ctrl+M), and run again. `calibration` is on "
        "`automatic`, which finds the file of this very model; the log names it. Another file is "
        "chosen by hand, after R.\n\n"
        "One calibration serves other prompts, numbers of steps and shifts. `recommended` is on: "
        f"Chroma's published settings, with your curve.\n\n{CHROMA_SAMPLING}{parts.LOG}"
    )
    w.lay_out(
        [parts.start(w, w.note("What happens here", text))],
        [parts.models(*loaders, shifted), prompt],
        [
            Group("3 · Measure", GREEN, [[measured], [first], result]),
            Group("4 · Use the calibration (muted: Ctrl+M)", GREEN, [[cached], [second], again]),
        ],
    )


def qwen_image(w: Workflow) -> None:
    model = parts.loader(w, "UNETLoader", unet_name=files.QWEN)
    clip = parts.loader(w, "CLIPLoader", clip_name=files.QWEN_TEXT, type="qwen_image")
    vae = parts.loader(w, "VAELoader", vae_name=files.QWEN_VAE)
    shifted = w.node("ModelSamplingAuraFlow", "Shift", model=model[0], shift=3.1)
    cached = parts.magcache(w, shifted[0], "qwen_image")
    conditions, latent, prompt = _prompt_and_size(w, clip, " ", 1328)
    sampler = _sampler(w, cached[0], conditions, latent[0], steps=50, cfg=4.0)
    more = (
        "50 steps and CFG 4 at 1328x1328, as its makers advise; Euler, `simple` and shift 3.1 as "
        "in ComfyUI's template. 20 steps are enough for a first look.\n\n"
    )
    w.lay_out(
        [parts.start(w, parts.about_magcache(w, "qwen_image", more))],
        [parts.models(model, clip, vae), prompt],
        [parts.ours([shifted, cached])],
        [_result(w, sampler, vae)],
    )


def _flux_loaders(w: Workflow, weights: files.File) -> Loaders:
    model = parts.loader(w, "UNETLoader", unet_name=weights)
    clip = parts.loader(
        w, "DualCLIPLoader", clip_name1=files.CLIP_L, clip_name2=files.T5, type="flux"
    )
    return model, clip, parts.loader(w, "VAELoader", vae_name=files.FLUX_VAE)


def _chroma_loaders(w: Workflow) -> Loaders:
    model = parts.loader(w, "UNETLoader", unet_name=files.CHROMA)
    clip = parts.loader(w, "CLIPLoader", clip_name=files.T5, type="chroma")
    return model, clip, parts.loader(w, "VAELoader", vae_name=files.FLUX_VAE)


def _from_text(
    w: Workflow, loaders: Loaders, ours: list[Node], note: Node, reports: bool = False
) -> None:
    """FLUX from a text; `ours` ends with the node that the sampler takes its model from."""
    text, none = parts.prompts(w, loaders[1][0], LANDSCAPE, None)
    guided = w.node("FluxGuidance", conditioning=text[0], guidance=3.5)
    latent = w.node("EmptySD3LatentImage", "Size", width=1024, height=1024)
    sampler = _sampler(w, ours[-1][0], (guided[0], none[0]), latent[0], steps=28, cfg=1.0)
    columns = [
        [parts.start(w, note)],
        [parts.models(*loaders), parts.prompt(text, guided, none, latent)],
        [parts.ours(ours)],
        [_result(w, sampler, loaders[2])],
    ]
    if reports:
        columns[-1].append(Group("5 · Report", GREEN, [[parts.report(w, ours[-1], sampler[0])]]))
    w.lay_out(*columns)


def _prompt_and_size(
    w: Workflow, clip: Node, negative: str, side: int
) -> tuple[tuple[Output, Output], Node, Group]:
    text, poor = parts.prompts(w, clip[0], LANDSCAPE, negative)
    latent = w.node("EmptySD3LatentImage", "Size", width=side, height=side)
    return (text[0], poor[0]), latent, parts.prompt(text, poor, latent)


def _sampler(
    w: Workflow, model: Output, conditions: tuple[Output, Output], latent: Output,
    steps: int, cfg: float, scheduler: str = "simple", **node: Any,
) -> Node:  # fmt: skip
    return w.node(
        "KSampler", model=model, positive=conditions[0], negative=conditions[1],
        latent_image=latent, seed=1, steps=steps, cfg=cfg, sampler_name="euler",
        scheduler=scheduler, **node,
    )  # fmt: skip


def _chroma_sampler(
    w: Workflow, model: Node, conditions: tuple[Output, Output], latent: Node, **node: Any
) -> Node:
    return _sampler(w, model[0], conditions, latent[0], 40, 3.0, scheduler="beta", **node)


def _result(w: Workflow, sampler: Node, vae: Node, title: str = "4 · Sample") -> Group:
    decoded, saved = parts.image(w, sampler[0], vae[0], f"magcache/{w.name}")
    return Group(title, BLUE, [[sampler, decoded], [saved]])
