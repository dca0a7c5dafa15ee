"""The examples for video models, based on ComfyUI's own templates."""

from typing import Any

from . import files, parts
from .graph import BLUE, YELLOW, Group, Node, Output, Workflow

WALK = (
    "A red fox walks through fresh snow at the edge of a pine forest, its breath visible in the "
    "cold morning light, snow falling softly. The camera follows it from the side."
)
MOVES = "The scene comes alive with small natural movements while the camera slowly moves closer."
SOUND = f"{MOVES} Soft ambient sound."
POOR = (
    "overexposed, static, blurred details, subtitles, worst quality, low quality, compression "
    "artifacts, deformed, extra limbs, still picture, messy background, walking backwards"
)
SIZE: dict[str, Any] = {"width": 832, "height": 480, "length": 33}
SQUARE: dict[str, Any] = {"width": 640, "height": 640, "length": 81}
FPS = 16.0
FEW = "1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0"
FINER = "0.85, 0.725, 0.4219, 0.0"
Conditions = tuple[Output, Output]


def minimax(w: Workflow) -> None:
    model = parts.loader(w, "UNETLoader", unet_name=files.MINIMAX)
    clip = parts.loader(w, "CLIPLoader", clip_name=files.MINIMAX_TEXT, type="minimax")
    vae = parts.loader(w, "VAELoader", "Video VAE", vae_name=files.MINIMAX_VAE)
    audio = parts.loader(w, "VAELoader", "Audio VAE", vae_name=files.MINIMAX_AUDIO)
    cached = parts.faster(w, model[0])
    picture = parts.given(w, "First frame")
    given = w.node(
        "MiniMaxH3ImageToVideo", clip=clip[0], vae=vae[0], first_frame=picture[0], prompt=SOUND,
        width=832, height=480, length=124,
    )  # fmt: skip
    guider = w.node("BasicGuider", model=cached[0], conditioning=given[0])
    sigmas = parts.basic_sigmas(w, cached[0], 20)
    sampling = parts.guided(w, guider, sigmas, given[1], "res_multistep")
    frames = w.node("VAEDecode", samples=sampling[-1][0], vae=vae[0], collapsed=True)
    sound = w.node("VAEDecodeAudio", samples=sampling[-1][0], vae=audio[0], collapsed=True)
    video = parts.video(w, frames[0], 24.0, sound[0])
    more = " Disconnect `first_frame` to make a video from the text alone."
    w.lay_out(
        [parts.start(w, 10, 20, more)],
        [parts.models(clip, vae, audio, model), parts.ours(cached)],
        [parts.prompt(picture, given)],
        [parts.sample(sampling, [frames, sound, *video])],
    )


def ltx(w: Workflow) -> None:
    model = parts.loader(w, "CheckpointLoaderSimple", ckpt_name=files.LTX)
    lora = parts.loader(
        w, "LoraLoaderModelOnly", model=model[0], lora_name=files.LTX_LORA, strength_model=0.5
    )
    clip = parts.loader(
        w, "LTXAVTextEncoderLoader", text_encoder=files.LTX_TEXT, ckpt_name=files.LTX
    )
    audio = parts.loader(w, "LTXVAudioVAELoader", ckpt_name=files.LTX)
    upscaler = parts.loader(w, "LatentUpscaleModelLoader", model_name=files.LTX_UPSCALER)
    cached = parts.faster(w, lora[0])
    picture = parts.given(w, "First frame")
    softer = w.node("LTXVPreprocess", image=picture[0], img_compression=18, collapsed=True)
    text, poor = parts.prompts(w, clip[0], SOUND, POOR)
    told = w.node(
        "LTXVConditioning", positive=text[0], negative=poor[0], frame_rate=25.0, collapsed=True
    )
    latent = w.node("EmptyLTXVLatentVideo", "Size, a half each way", width=640, height=352,
                    length=121)  # fmt: skip
    silence = w.node(
        "LTXVEmptyLatentAudio", audio_vae=audio[0], frames_number=121, frame_rate=25,
        collapsed=True,
    )  # fmt: skip
    guider = w.node("CFGGuider", model=cached[0], positive=told[0], negative=told[1], cfg=1.0)

    def stage(video: Output, sound: Output, sigmas: str, strength: float) -> list[Node]:
        begun = w.node(
            "LTXVImgToVideoInplace", vae=model[2], image=softer[0], latent=video,
            strength=strength, collapsed=True,
        )  # fmt: skip
        both = w.node(
            "LTXVConcatAVLatent", video_latent=begun[0], audio_latent=sound, collapsed=True
        )
        levels = w.node("ManualSigmas", sigmas=sigmas)
        noise, _, chosen, _, ran = parts.guided(w, guider, levels, both[0])
        apart = w.node("LTXVSeparateAVLatent", av_latent=ran[0], collapsed=True)
        return [begun, both, noise, chosen, levels, ran, apart]

    first = stage(latent[0], silence[0], FEW, 0.7)
    larger = w.node(
        "LTXVLatentUpsampler", samples=first[-1][0], upscale_model=upscaler[0], vae=model[2],
        collapsed=True,
    )  # fmt: skip
    second = stage(larger[0], first[-1][1], FINER, 1.0)
    frames = w.node(
        "VAEDecodeTiled", samples=second[-1][0], vae=model[2], tile_size=768, overlap=64,
        temporal_size=4096, temporal_overlap=4, collapsed=True,
    )  # fmt: skip
    sound = w.node("LTXVAudioVAEDecode", samples=second[-1][1], audio_vae=audio[0], collapsed=True)
    video = parts.video(w, frames[0], 25.0, sound[0])
    more = " One MagCache node, behind the LoRA, serves both stages."
    w.lay_out(
        [parts.start(w, 8, 11, more)],
        [parts.models(clip, audio, upscaler, model, lora), parts.ours(cached)],
        [parts.prompt(picture, softer, text, poor, told, latent, silence)],
        [Group("Sample", BLUE, [[guider, *first]])],
        [Group("Sample at twice the size", BLUE, [[larger, *second]])],
        [Group("Video with sound", BLUE, [[frames, sound, *video]])],
    )


def hunyuan(w: Workflow) -> None:
    model = parts.loader(w, "UNETLoader", unet_name=files.HUNYUAN)
    clip = parts.loader(
        w, "DualCLIPLoader", clip_name1=files.CLIP_L, clip_name2=files.LLAVA, type="hunyuan_video"
    )
    vae = parts.loader(w, "VAELoader", vae_name=files.HUNYUAN_VAE)
    cached = parts.faster(w, model[0])
    shifted = w.node("ModelSamplingSD3", "Shift", model=cached[0], shift=7.0)
    text = w.node("CLIPTextEncode", "Prompt", clip=clip[0], text=WALK, high=150)
    guidance = w.node("FluxGuidance", conditioning=text[0], guidance=6.0)
    latent = w.node("EmptyHunyuanLatentVideo", "Size", width=848, height=480, length=73)
    guider = w.node("BasicGuider", model=shifted[0], conditioning=guidance[0])
    sampling = parts.guided(w, guider, parts.basic_sigmas(w, shifted[0], 20), latent[0])
    frames = w.node(
        "VAEDecodeTiled", samples=sampling[-1][0], vae=vae[0], tile_size=256, overlap=64,
        temporal_size=64, temporal_overlap=8, collapsed=True,
    )  # fmt: skip
    w.lay_out(
        [parts.start(w, 10, 20)],
        [parts.models(clip, vae, model), parts.ours(cached, shifted)],
        [parts.prompt(text, guidance, latent)],
        [parts.sample(sampling, [frames, *parts.video(w, frames[0], 24.0)])],
    )


def wan21_t2v(w: Workflow) -> None:
    loaders = _wan_loaders(w, files.WAN21_T2V)
    cached, shifted = _shifted(w, loaders[0], 8.0)
    text, poor = parts.prompts(w, loaders[1][0], WALK, POOR)
    latent = w.node("EmptyHunyuanLatentVideo", "Size", **SIZE)
    sampler = parts.sampled(w, shifted[0], (text[0], poor[0]), latent[0], 30, 6.0, "uni_pc")
    w.lay_out(
        [parts.start(w, 15, 30)],
        [parts.models(*loaders[1:], loaders[0]), parts.ours(cached, shifted)],
        [parts.prompt(text, poor, latent)],
        [_sample(w, [sampler], loaders[2])],
    )


def wan21_i2v(w: Workflow) -> None:
    model, clip, vae = loaders = _wan_loaders(w, files.WAN21_I2V)
    sees = parts.loader(w, "CLIPVisionLoader", clip_name=files.CLIP_VISION)
    cached, shifted = _shifted(w, model, 8.0)
    picture = parts.given(w, "First frame")
    seen = w.node("CLIPVisionEncode", clip_vision=sees[0], image=picture[0], crop="none",
                  collapsed=True)  # fmt: skip
    text, poor = parts.prompts(w, clip[0], MOVES, POOR)
    given = w.node(
        "WanImageToVideo", positive=text[0], negative=poor[0], vae=vae[0],
        clip_vision_output=seen[0], start_image=picture[0], width=512, height=512, length=33,
    )  # fmt: skip
    sampler = parts.sampled(w, shifted[0], (given[0], given[1]), given[2], 20, 6.0, "uni_pc")
    w.lay_out(
        [parts.start(w, 10, 20)],
        [parts.models(sees, *loaders[1:], loaders[0]), parts.ours(cached, shifted)],
        [Group("Prompt", YELLOW, [[picture, seen, given], [text, poor]])],
        [_sample(w, [sampler], vae)],
    )


def wan22_t2v(w: Workflow) -> None:
    high, low, clip, vae = _wan22_loaders(w, files.WAN22_HIGH, files.WAN22_LOW)
    experts = _experts(w, high, low)
    text, poor = parts.prompts(w, clip[0], WALK, POOR)
    latent = w.node("EmptyHunyuanLatentVideo", "Size", **SQUARE)
    samplers = _two_samplers(w, experts, (text[0], poor[0]), latent[0])
    w.lay_out(
        [_two_start(w)],
        [parts.models(high, low, clip, vae)],
        [parts.ours(*experts)],
        [parts.prompt(text, poor, latent)],
        [_sample(w, samplers, vae)],
    )


def wan22_i2v(w: Workflow) -> None:
    high, low, clip, vae = _wan22_loaders(w, files.WAN22_I2V_HIGH, files.WAN22_I2V_LOW)
    experts = _experts(w, high, low)
    picture = parts.given(w, "First frame")
    text, poor = parts.prompts(w, clip[0], MOVES, POOR)
    given = w.node(
        "WanImageToVideo", positive=text[0], negative=poor[0], vae=vae[0],
        start_image=picture[0], **SQUARE,
    )  # fmt: skip
    samplers = _two_samplers(w, experts, (given[0], given[1]), given[2])
    w.lay_out(
        [_two_start(w)],
        [parts.models(high, low, clip, vae)],
        [parts.ours(*experts)],
        [parts.prompt(picture, text, poor, given)],
        [_sample(w, samplers, vae)],
    )


def _wan_text_and_vae(w: Workflow) -> tuple[Node, Node]:
    clip = parts.loader(w, "CLIPLoader", clip_name=files.UMT5, type="wan")
    return clip, parts.loader(w, "VAELoader", vae_name=files.WAN_VAE)


def _wan_loaders(w: Workflow, weights: files.File) -> tuple[Node, Node, Node]:
    model = parts.loader(w, "UNETLoader", unet_name=weights)
    return model, *_wan_text_and_vae(w)


def _wan22_loaders(w: Workflow, high: files.File, low: files.File) -> tuple[Node, Node, Node, Node]:
    first = parts.loader(w, "UNETLoader", "High noise", unet_name=high)
    second = parts.loader(w, "UNETLoader", "Low noise", unet_name=low)
    return first, second, *_wan_text_and_vae(w)


def _shifted(w: Workflow, model: Node, shift: float, title: str = "") -> tuple[Node, Node]:
    """MagCache right behind a loader, and the node for the shift."""
    cached = parts.faster(w, model[0], title)
    return cached, w.node("ModelSamplingSD3", "Shift", model=cached[0], shift=shift)


def _experts(w: Workflow, high: Node, low: Node) -> list[Node]:
    """MagCache and shift for each of the two models."""
    return [
        *_shifted(w, high, 5.0, "MagCache, high noise"),
        *_shifted(w, low, 5.0, "MagCache, low noise"),
    ]


def _two_start(w: Workflow) -> Group:
    more = " Two models take turns, so there is a MagCache on each."
    return parts.start(w, 10, 20, more, two=True)


def _two_samplers(
    w: Workflow, experts: list[Node], conditions: Conditions, latent: Output
) -> list[Node]:
    shared: dict[str, Any] = {
        "positive": conditions[0], "negative": conditions[1], "steps": 20, "cfg": 3.5,
        "sampler_name": "euler", "scheduler": "simple",
    }  # fmt: skip
    first = w.node(
        "KSamplerAdvanced", "High noise: the first 10 steps", model=experts[1][0],
        latent_image=latent, add_noise="enable", noise_seed=1, start_at_step=0, end_at_step=10,
        return_with_leftover_noise="enable", **shared,
    )  # fmt: skip
    second = w.node(
        "KSamplerAdvanced", "Low noise: the last 10 steps", model=experts[3][0],
        latent_image=first[0], add_noise="disable", noise_seed=0, start_at_step=10,
        end_at_step=10000, return_with_leftover_noise="disable", **shared,
    )  # fmt: skip
    return [first, second]


def _sample(w: Workflow, samplers: list[Node], vae: Node) -> Group:
    frames = w.node("VAEDecode", samples=samplers[-1][0], vae=vae[0], collapsed=True)
    video = parts.video(w, frames[0], FPS)
    return parts.sample(samplers, [frames, *video])
