"""The examples for video models."""

from typing import Any

from . import files, parts
from .graph import BLUE, GREEN, YELLOW, Group, Node, Output, Workflow

WALK = (
    "A red fox walks through fresh snow at the edge of a pine forest, its breath visible in the "
    "cold morning light, snow falling softly. The camera follows it from the side."
)
POOR = (
    "overexposed, static, blurred details, subtitles, worst quality, low quality, compression "
    "artifacts, deformed, extra limbs, still picture, messy background, walking backwards"
)
SIZE: dict[str, Any] = {"width": 832, "height": 480, "length": 81}
FPS = 16.0
Conditions = tuple[Output, Output]


def hunyuanvideo(w: Workflow) -> None:
    model = parts.loader(w, "UNETLoader", unet_name=files.HUNYUAN)
    clip = parts.loader(
        w, "DualCLIPLoader", clip_name1=files.CLIP_L, clip_name2=files.LLAVA, type="hunyuan_video"
    )
    vae = parts.loader(w, "VAELoader", vae_name=files.HUNYUAN_VAE)
    shifted = w.node("ModelSamplingSD3", "Shift", model=model[0], shift=7.0)
    cached = parts.magcache(w, shifted[0], "hunyuan_video")
    text, none = parts.prompts(w, clip[0], WALK, None)
    guided = w.node("FluxGuidance", conditioning=text[0], guidance=6.0)
    latent = w.node("EmptyHunyuanLatentVideo", "Size", width=848, height=480, length=73)
    sampler = _sampler(w, cached, (guided[0], none[0]), latent[0], 50, 1.0, "euler")
    more = (
        "50 steps, shift 7, guidance 6, as its makers advise. 20 steps are enough for a first "
        "look.\n\n"
    )
    decoded = w.node(
        "VAEDecodeTiled", samples=sampler[0], vae=vae[0], tile_size=256, overlap=64,
        temporal_size=64, temporal_overlap=8,
    )  # fmt: skip
    made, saved = parts.video(w, decoded[0], 24.0)
    w.lay_out(
        [parts.start(w, parts.about_magcache(w, "hunyuan_video", more))],
        [parts.models(model, clip, vae), parts.prompt(text, guided, none, latent)],
        [parts.ours([shifted, cached])],
        [Group("4 · Sample", BLUE, [[sampler, decoded, made], [saved]])],
    )


def wan_t2v(w: Workflow) -> None:
    loaders = _wan_loaders(w, files.WAN21_T2V)
    shifted, cached = _shifted(w, loaders[0], 8.0, "wan2.1_t2v_1.3B")
    text, poor = parts.prompts(w, loaders[1][0], WALK, POOR)
    latent = w.node("EmptyHunyuanLatentVideo", "Size", **SIZE)
    sampler = _sampler(w, cached, (text[0], poor[0]), latent[0], 50, 6.0)
    more = (
        "UniPC, 50 steps, shift 8, CFG 6, as its makers advise for the 1.3B model. For the 14B "
        "model they advise shift 5 and CFG 5; `auto` finds its curve.\n\n"
    )
    w.lay_out(
        [parts.start(w, parts.about_magcache(w, "wan2.1_t2v_1.3B", more))],
        [parts.models(*loaders), parts.prompt(text, poor, latent)],
        [parts.ours([shifted, cached])],
        [_result(w, sampler, sampler[0], loaders[2])],
    )


def wan_i2v(w: Workflow) -> None:
    model, clip, vae = loaders = _wan_loaders(w, files.WAN21_I2V)
    sees = parts.loader(w, "CLIPVisionLoader", clip_name=files.CLIP_VISION)
    shifted, cached = _shifted(w, model, 3.0, "wan2.1_i2v_480p_14B")
    picture = w.node("LoadImage", "First frame", image="example.png", wide=260, high=350)
    seen = w.node("CLIPVisionEncode", clip_vision=sees[0], image=picture[0], crop="none")
    text, poor = parts.prompts(w, clip[0], WALK, POOR)
    given = w.node(
        "WanImageToVideo", positive=text[0], negative=poor[0], vae=vae[0],
        clip_vision_output=seen[0], start_image=picture[0], **SIZE,
    )  # fmt: skip
    sampler = _sampler(w, cached, (given[0], given[1]), given[2], 40, 5.0)
    more = (
        "UniPC, 40 steps, shift 3, CFG 5, as its makers advise for 480p; at 720p, shift 5 with "
        "the 720p model. `auto` takes the curve of 480p or 720p by the size of the video.\n\n"
    )
    w.lay_out(
        [parts.start(w, parts.about_magcache(w, "wan2.1_i2v_480p_14B", more))],
        [parts.models(*loaders, sees), parts.prompt(text, poor)],
        [
            parts.ours([shifted], [cached]),
            Group("4 · Image and size", YELLOW, [[picture], [seen, given]]),
        ],
        [_result(w, sampler, sampler[0], vae, title="5 · Sample")],
    )


def wan_vace(w: Workflow) -> None:
    model, clip, vae = loaders = _wan_loaders(w, files.WAN21_VACE)
    shifted, cached = _shifted(w, model, 16.0, "wan2.1_vace_1.3B")
    picture = w.node("LoadImage", "What the video shows", image="example.png", wide=260, high=350)
    text, poor = parts.prompts(w, clip[0], WALK, POOR)
    given = w.node(
        "WanVaceToVideo", positive=text[0], negative=poor[0], vae=vae[0],
        reference_image=picture[0], **SIZE,
    )  # fmt: skip
    sampler = _sampler(w, cached, (given[0], given[1]), given[2], 50, 5.0)
    trimmed = w.node("TrimVideoLatent", samples=sampler[0], trim_amount=given[3])
    more = (
        "UniPC, 50 steps, shift 16, CFG 5, as its makers advise. The reference image is trimmed "
        "off the result; `control_video` and `control_masks` work as well. The settings published "
        "for VACE are more careful than those for the other Wan models.\n\n"
    )
    w.lay_out(
        [parts.start(w, parts.about_magcache(w, "wan2.1_vace_1.3B", more))],
        [parts.models(*loaders), parts.prompt(text, poor)],
        [
            parts.ours([shifted], [cached]),
            Group("4 · Image and size", YELLOW, [[picture], [given]]),
        ],
        [_result(w, sampler, trimmed[0], vae, trimmed, title="5 · Sample")],
    )


def wan22_t2v(w: Workflow) -> None:
    high = parts.loader(w, "UNETLoader", "High noise", unet_name=files.WAN22_HIGH)
    low = parts.loader(w, "UNETLoader", "Low noise", unet_name=files.WAN22_LOW)
    clip, vae = _wan_text_and_vae(w)
    experts = [_shifted(w, each, 12.0, "wan2.2_t2v_14B", by_hand=True) for each in (high, low)]
    text, poor = parts.prompts(w, clip[0], WALK, POOR)
    latent = w.node("EmptyHunyuanLatentVideo", "Size", **SIZE)
    shared: dict[str, Any] = {"positive": text[0], "negative": poor[0], "steps": 40}
    shared |= {"sampler_name": "euler", "scheduler": "simple"}
    first = w.node(
        "KSamplerAdvanced", "High noise: steps 0 to 25", model=experts[0][1][0],
        latent_image=latent[0], add_noise="enable", noise_seed=1, cfg=4.0,
        start_at_step=0, end_at_step=26, return_with_leftover_noise="enable", **shared,
    )  # fmt: skip
    second = w.node(
        "KSamplerAdvanced", "Low noise: steps 26 to 39", control="fixed", model=experts[1][1][0],
        latent_image=first[0], add_noise="disable", noise_seed=0, cfg=3.0,
        start_at_step=26, end_at_step=10000, return_with_leftover_noise="disable", **shared,
    )  # fmt: skip
    more = (
        "Two experts take turns, so there is **one MagCache on each**. `model_type` is set by "
        "hand here; `auto` finds it too.\n\n"
        "40 steps, shift 12, CFG 4 and then 3, as the makers advise. With these the noise falls "
        "to 0.875, where they change experts, at step 26; with other steps or shift, change both "
        "numbers.\n\n"
    )
    decoded = w.node("VAEDecode", samples=second[0], vae=vae[0])
    made, saved = parts.video(w, decoded[0], FPS)
    w.lay_out(
        [parts.start(w, parts.about_magcache(w, "wan2.2_t2v_14B", more))],
        [parts.models(high, low, clip, vae), parts.prompt(text, poor, latent)],
        [
            Group("3 · MagCache, high noise", GREEN, [experts[0]]),
            Group("4 · MagCache, low noise", GREEN, [experts[1]]),
        ],
        [Group("5 · Sample", BLUE, [[first, second], [decoded, made, saved]])],
    )


def _wan_text_and_vae(w: Workflow) -> tuple[Node, Node]:
    clip = parts.loader(w, "CLIPLoader", clip_name=files.UMT5, type="wan")
    return clip, parts.loader(w, "VAELoader", vae_name=files.WAN_VAE)


def _wan_loaders(w: Workflow, weights: files.File) -> tuple[Node, Node, Node]:
    model = parts.loader(w, "UNETLoader", unet_name=weights)
    return model, *_wan_text_and_vae(w)


def _shifted(
    w: Workflow, model: Node, shift: float, preset: str, by_hand: bool = False
) -> tuple[Node, Node]:
    """The shift's node, and MagCache behind it."""
    shifted = w.node("ModelSamplingSD3", "Shift", model=model[0], shift=shift)
    return shifted, parts.magcache(w, shifted[0], preset, preset if by_hand else "auto")


def _sampler(
    w: Workflow, model: Node, conditions: Conditions, latent: Output, steps: int, cfg: float,
    sampler: str = "uni_pc",
) -> Node:  # fmt: skip
    return w.node(
        "KSampler", model=model[0], positive=conditions[0], negative=conditions[1],
        latent_image=latent, seed=1, steps=steps, cfg=cfg, sampler_name=sampler,
        scheduler="simple",
    )  # fmt: skip


def _result(
    w: Workflow, sampler: Node, samples: Output, vae: Node, *between: Node,
    title: str = "4 · Sample",
) -> Group:  # fmt: skip
    decoded = w.node("VAEDecode", samples=samples, vae=vae[0])
    made, saved = parts.video(w, decoded[0], FPS)
    return Group(title, BLUE, [[sampler, *between, decoded, made], [saved]])
