"""The examples for image models, based on ComfyUI's own templates."""

from typing import Any

from magcache.curves import presets

from . import files, parts
from .graph import Node, Workflow

LANDSCAPE = (
    "A small lighthouse on a rocky island at dusk, warm light in its windows, long exposure of "
    "the sea, thin fog, a rowing boat tied to a wooden pier in the foreground."
)
NIGHT = "Make it night, with a clear sky full of stars. Keep everything else as it is."
POOR = "low quality, blurry, out of focus, deformed, unfinished, flat colors"
FEW = 6, 8, " Skipping more of so few steps would be visible; `draft` does it anyway."
Loaders = tuple[Node, Node, Node]


def flux(w: Workflow) -> None:
    loaders = _flux_loaders(w, files.FLUX)
    _flux_from_text(w, loaders, parts.faster(w, loaders[0][0]))


def published_rule(w: Workflow) -> None:
    loaders = _flux_loaders(w, files.FLUX)
    preset = presets.load("flux")
    settings: dict[str, Any] = {
        "magcache_thresh": preset.threshold,
        "retention_ratio": preset.retention,
        "magcache_K": preset.max_skip,
    }
    rule = w.node("MagCache", model=loaders[0][0], model_type="auto", recommended=True, **settings)
    text = (
        "The method of the MagCache paper, with its own settings, for comparison or for old "
        "workflows. To choose a speed instead, use `flux1_dev`.\n\n"
        "`recommended` is on, so the settings published for FLUX apply. The rule skips evaluations "
        "while the estimated error stays within `magcache_thresh`, at most `magcache_K` in a row, "
        "and none in the first part (`retention_ratio`)."
    )
    _flux_from_text(w, loaders, rule, text)


def flux_kontext(w: Workflow) -> None:
    model, clip, vae = loaders = _flux_loaders(w, files.KONTEXT)
    cached = parts.faster(w, model[0])
    picture = parts.given(w, "Image to change")
    scaled = w.node("FluxKontextImageScale", image=picture[0], collapsed=True)
    encoded = w.node("VAEEncode", pixels=scaled[0], vae=vae[0], collapsed=True)
    text = w.node("CLIPTextEncode", "What to change", clip=clip[0], high=110, text=NIGHT)
    referring = w.node("ReferenceLatent", conditioning=text[0], latent=encoded[0], collapsed=True)
    guided = w.node("FluxGuidance", conditioning=referring[0], guidance=2.5)
    none = parts.zeros(w, text[0])
    sampler = parts.sampled(w, cached[0], (guided[0], none[0]), encoded[0], 20, 1.0)
    w.lay_out(
        [parts.start(w, 10, 20)],
        [parts.models(*loaders[1:], loaders[0]), parts.ours(cached)],
        [parts.prompt(picture, scaled, encoded, text, referring, guided, none)],
        [parts.sample([sampler, *parts.image(w, sampler[0], vae[0])])],
    )


def flux2(w: Workflow) -> None:
    model = parts.loader(w, "UNETLoader", unet_name=files.FLUX2)
    clip = parts.loader(w, "CLIPLoader", clip_name=files.MISTRAL, type="flux2")
    vae = parts.loader(w, "VAELoader", vae_name=files.FLUX2_VAE)
    cached = parts.faster(w, model[0])
    text = w.node("CLIPTextEncode", "Prompt", clip=clip[0], text=LANDSCAPE, high=150)
    guidance = w.node("FluxGuidance", conditioning=text[0], guidance=4.0)
    size: dict[str, Any] = {"width": 1024, "height": 1024}
    latent = w.node("EmptyFlux2LatentImage", "Size", **size)
    guider = w.node("BasicGuider", model=cached[0], conditioning=guidance[0])
    sigmas = w.node("Flux2Scheduler", "Steps, for this size", steps=20, **size)
    sampling = parts.guided(w, guider, sigmas, latent[0])
    w.lay_out(
        [parts.start(w, 10, 20)],
        [parts.models(clip, vae, model), parts.ours(cached)],
        [parts.prompt(text, guidance, latent)],
        [parts.sample(sampling, parts.image(w, sampling[-1][0], vae[0]))],
    )


def chroma(w: Workflow) -> None:
    model = parts.loader(w, "UNETLoader", unet_name=files.CHROMA)
    clip = parts.loader(w, "CLIPLoader", clip_name=files.T5, type="chroma")
    vae = parts.loader(w, "VAELoader", vae_name=files.FLUX_VAE)
    cached = parts.faster(w, model[0])
    shifted = w.node("ModelSamplingAuraFlow", "Shift", model=cached[0], shift=1.0)
    text, poor = parts.prompts(w, clip[0], LANDSCAPE, POOR)
    latent = w.node("EmptySD3LatentImage", "Size", width=1024, height=1024)
    guider = w.node("CFGGuider", model=shifted[0], positive=text[0], negative=poor[0], cfg=3.5)
    sigmas = parts.basic_sigmas(w, shifted[0], 26, "beta")
    sampling = parts.guided(w, guider, sigmas, latent[0])
    w.lay_out(
        [parts.start(w, 13, 26)],
        [parts.models(clip, vae, model), parts.ours(cached, shifted)],
        [parts.prompt(text, poor, latent)],
        [parts.sample(sampling, parts.image(w, sampling[-1][0], vae[0]))],
    )


def qwen_image(w: Workflow) -> None:
    loaders = _qwen_loaders(w, files.QWEN)
    cached = parts.faster(w, loaders[0][0])
    shifted = w.node("ModelSamplingAuraFlow", "Shift", model=cached[0], shift=3.1)
    prompts = parts.prompts(w, loaders[1][0], LANDSCAPE, " ")
    latent = w.node("EmptySD3LatentImage", "Size", width=1328, height=1328)
    told = 10, 20, " Its makers recommend 50 steps; of those it computes 25."
    _from_text(w, loaders, [cached, shifted], [*prompts, latent], told, cfg=4.0)


def qwen_image_edit(w: Workflow) -> None:
    model, clip, vae = loaders = _qwen_loaders(w, files.QWEN_EDIT)
    cached = parts.faster(w, model[0])
    shifted = w.node("ModelSamplingAuraFlow", "Shift", model=cached[0], shift=3.1)
    normed = w.node("CFGNorm", model=shifted[0], strength=1.0)
    picture = parts.given(w, "Image to change")
    scaled = w.node("FluxKontextImageScale", image=picture[0], collapsed=True)
    encoded = w.node("VAEEncode", pixels=scaled[0], vae=vae[0], collapsed=True)

    def condition(title: str, text: str, collapsed: bool) -> tuple[Node, Node]:
        encoded = w.node(
            "TextEncodeQwenImageEditPlus", title, clip=clip[0], vae=vae[0], image1=scaled[0],
            prompt=text, high=170, collapsed=collapsed,
        )  # fmt: skip
        referring = w.node(
            "FluxKontextMultiReferenceLatentMethod", f"Reference: {title.lower()}",
            conditioning=encoded[0], reference_latents_method="index_timestep_zero",
            collapsed=True,
        )  # fmt: skip
        return encoded, referring

    text = condition("What to change", NIGHT, False)
    none = condition("Negative: nothing", "", True)
    sampler = parts.sampled(w, normed[0], (text[1][0], none[1][0]), encoded[0], 40, 4.0)
    w.lay_out(
        [parts.start(w, 20, 40)],
        [parts.models(*loaders[1:], loaders[0]), parts.ours(cached, shifted, normed)],
        [parts.prompt(picture, scaled, encoded, *text, *none)],
        [parts.sample([sampler, *parts.image(w, sampler[0], vae[0])])],
    )


def krea2(w: Workflow) -> None:
    model = parts.loader(w, "UNETLoader", unet_name=files.KREA2)
    clip = parts.loader(w, "CLIPLoader", clip_name=files.KREA2_TEXT, type="krea2")
    vae = parts.loader(w, "VAELoader", vae_name=files.KREA2_VAE)
    cached = parts.faster(w, model[0])
    prompts = parts.prompts(w, clip[0], LANDSCAPE, None)
    latent = w.node("EmptyLatentImage", "Size", width=1024, height=1024)
    _from_text(w, (model, clip, vae), [cached], [*prompts, latent], FEW, cfg=1.0, steps=8)


def z_image(w: Workflow) -> None:
    model = parts.loader(w, "UNETLoader", unet_name=files.Z_IMAGE)
    clip = parts.loader(w, "CLIPLoader", clip_name=files.Z_IMAGE_TEXT, type="lumina2")
    vae = parts.loader(w, "VAELoader", vae_name=files.Z_IMAGE_VAE)
    cached = parts.faster(w, model[0])
    shifted = w.node("ModelSamplingAuraFlow", "Shift", model=cached[0], shift=3.0)
    prompts = parts.prompts(w, clip[0], LANDSCAPE, None)
    latent = w.node("EmptySD3LatentImage", "Size", width=1024, height=1024)
    _from_text(
        w, (model, clip, vae), [cached, shifted], [*prompts, latent], FEW, cfg=1.0, steps=8,
        sampler="res_multistep",
    )  # fmt: skip


def _flux_loaders(w: Workflow, weights: files.File) -> Loaders:
    model = parts.loader(w, "UNETLoader", unet_name=weights)
    clip = parts.loader(
        w, "DualCLIPLoader", clip_name1=files.CLIP_L, clip_name2=files.T5, type="flux"
    )
    return model, clip, parts.loader(w, "VAELoader", vae_name=files.FLUX_VAE)


def _qwen_loaders(w: Workflow, weights: files.File) -> Loaders:
    model = parts.loader(w, "UNETLoader", unet_name=weights)
    clip = parts.loader(w, "CLIPLoader", clip_name=files.QWEN_TEXT, type="qwen_image")
    return model, clip, parts.loader(w, "VAELoader", vae_name=files.QWEN_VAE)


def _flux_from_text(w: Workflow, loaders: Loaders, cached: Node, text: str = "") -> None:
    prompt, none = parts.prompts(w, loaders[1][0], LANDSCAPE, None)
    guided = w.node("FluxGuidance", conditioning=prompt[0], guidance=3.5)
    latent = w.node("EmptySD3LatentImage", "Size", width=1024, height=1024)
    nodes = [prompt, guided, none, latent]
    _from_text(w, loaders, [cached], nodes, (10, 20, ""), cfg=1.0, about=text)


def _from_text(
    w: Workflow, loaders: Loaders, ours: list[Node], prompt: list[Node],
    told: tuple[int, int, str], cfg: float, steps: int = 20, sampler: str = "euler",
    about: str = "",
) -> None:  # fmt: skip
    """Makes an image from text, with KSampler.

    Args:
        ours: The nodes of MagCache's group; the last one gives the sampler its model.
        prompt: The last three are the positive and the negative condition and the empty latent.
        told: How many steps the first run computes, of how many, and a further remark.
    """
    positive, negative, latent = (node[0] for node in prompt[-3:])
    sampling = parts.sampled(w, ours[-1][0], (positive, negative), latent, steps, cfg, sampler)
    start = parts.about(w, about) if about else parts.start(w, *told)
    w.lay_out(
        [start],
        [parts.models(*loaders[1:], loaders[0]), parts.ours(*ours)],
        [parts.prompt(*prompt)],
        [parts.sample([sampling, *parts.image(w, sampling[0], loaders[2][0])])],
    )
