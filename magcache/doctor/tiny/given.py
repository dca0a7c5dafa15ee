"""What the conditions of the tiny models hold beside the text: references, images, sound, poses."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

TEXT, POOLED = 32, 24  # channels, where a model does not say its own
IMAGE, VIDEO = (1, 16, 8, 8), (1, 16, 2, 8, 8)
FRAMES, HEIGHT, WIDTH = VIDEO[2:]
Noise = Callable[..., torch.Tensor]
"""Gives seeded noise of a shape."""
Given = Callable[[Noise, int], dict[str, Any]]
"""What conditions hold beside the text, from noise and the text's length."""


def nothing(_noise: Noise, _tokens: int) -> dict[str, Any]:
    """The text alone."""
    return {}


def _mask(tokens: int, padding: int = 0) -> torch.Tensor:
    mask = torch.ones(1, tokens, dtype=torch.int64)
    mask[:, tokens - padding :] = 0
    return mask


def masked(_noise: Noise, tokens: int) -> dict[str, Any]:
    return {"attention_mask": _mask(tokens)}


def padded(_noise: Noise, tokens: int) -> dict[str, Any]:
    return {"attention_mask": _mask(tokens, 2)}


def reference(noise: Noise, _tokens: int) -> dict[str, Any]:
    return {"reference_latents": [noise(1, 16, 4, 8)]}


def references(noise: Noise, tokens: int) -> dict[str, Any]:
    latents = [noise(1, 16, 6, 8), noise(1, 16, 4, 2)]
    return {**masked(noise, tokens), "reference_latents": latents}


def references_at_zero(noise: Noise, tokens: int) -> dict[str, Any]:
    """Their tokens are at another timestep than the image's."""
    return {**references(noise, tokens), "reference_latents_method": "index_timestep_zero"}


def pictures(noise: Noise, _tokens: int) -> dict[str, Any]:
    return {"reference_latents": [noise(1, 16, 1, 6, 8)]}


def omni(noise: Noise, tokens: int) -> dict[str, Any]:
    """Each reference with its text, and with what a vision tower sees."""
    seen = [
        SimpleNamespace(last_hidden_state=noise(1, 4, 12), image_sizes=[(3, 32, 32)])
        for _ in range(2)
    ]
    texts = [noise(1, 5, TEXT), noise(1, 3, TEXT)]
    more = {"reference_latents_text_embeds": texts, "clip_vision_outputs": seen}
    return {**references(noise, tokens), **more}


def glyphs(noise: Noise, _tokens: int) -> dict[str, Any]:
    return {"conditioning_byt5small": noise(1, 4, 1472)}


def glyphs_and_image(noise: Noise, tokens: int) -> dict[str, Any]:
    seen = SimpleNamespace(last_hidden_state=noise(1, 5, 1152))
    return {**glyphs(noise, tokens), "clip_vision_output": seen}


def llama(noise: Noise, tokens: int) -> dict[str, Any]:
    return {"conditioning_llama3": noise(1, 2, tokens, 40)}


def hydit(noise: Noise, tokens: int) -> dict[str, Any]:
    t5 = {"conditioning_mt5xl": noise(1, 5, 16), "attention_mask_mt5xl": _mask(5, 1)}
    return {**t5, "attention_mask": _mask(tokens, 2)}


def ids(_noise: Noise, tokens: int) -> dict[str, Any]:
    return {"t5xxl_ids": torch.arange(tokens), "t5xxl_weights": torch.ones(tokens)}


def tokens_only(_noise: Noise, tokens: int) -> dict[str, Any]:
    return {"text_input_ids": torch.arange(tokens)[None]}


def channels(noise: Noise, _tokens: int) -> dict[str, Any]:
    return {"concat_latent_image": noise(*VIDEO)}


def frame(_noise: Noise, _tokens: int) -> dict[str, Any]:
    """The first frame is given: each frame has its own timestep."""
    mask = torch.ones(1, 1, FRAMES, HEIGHT, WIDTH)
    mask[:, :, :1] = 0
    return {"concat_mask": mask}


def keyframe(noise: Noise, _tokens: int) -> dict[str, Any]:
    last = {"resolved_frame_index": 1, "latent": noise(1, 24, 1, 4, 4)}
    return {"minimax_keyframes": [last]}


def _seen(noise: Noise) -> SimpleNamespace:
    return SimpleNamespace(penultimate_hidden_states=noise(1, 5, 1280))


def image(noise: Noise, tokens: int) -> dict[str, Any]:
    """As Wan is given one: what CLIP sees, the latent, and which frame it is."""
    given = {**channels(noise, tokens), **frame(noise, tokens)}
    return {**given, "clip_vision_output": _seen(noise)}


def control(noise: Noise, tokens: int) -> dict[str, Any]:
    return {**image(noise, tokens), "concat_latent_image": noise(1, 32, FRAMES, HEIGHT, WIDTH)}


def vace(noise: Noise, _tokens: int) -> dict[str, Any]:
    frames, mask = noise(1, 32, FRAMES, HEIGHT, WIDTH), torch.ones(1, 64, FRAMES, HEIGHT, WIDTH)
    return {"vace_frames": [frames], "vace_mask": [mask], "vace_strength": [0.7]}


def camera(noise: Noise, tokens: int) -> dict[str, Any]:
    path = noise(1, 24, FRAMES, 8 * HEIGHT, 8 * WIDTH)
    return {**image(noise, tokens), "camera_conditions": path}


def _still(noise: Noise) -> list[torch.Tensor]:
    return [noise(1, 16, 1, HEIGHT, WIDTH)]


def speech(noise: Noise, _tokens: int) -> dict[str, Any]:
    return {
        "audio_embed": noise(1, 25, 1024, 4 * FRAMES), "reference_latents": _still(noise),
        "control_video": noise(*VIDEO), "reference_motion": noise(1, 16, 19, HEIGHT, WIDTH),
    }  # fmt: skip


def human(noise: Noise, _tokens: int) -> dict[str, Any]:
    return {"audio_embed": noise(1, FRAMES, 8, 5, 1280), "reference_latents": _still(noise)}


def pose_behind(noise: Noise, tokens: int) -> dict[str, Any]:
    pose = noise(1, 16, FRAMES - 1, HEIGHT, WIDTH)
    return {**image(noise, tokens), "pose_video_latent": pose}


def face_and_pose(noise: Noise, tokens: int) -> dict[str, Any]:
    return {**pose_behind(noise, tokens), "face_video_pixels": noise(1, 3, 4, 16, 16)}


def pose(noise: Noise, _tokens: int) -> dict[str, Any]:
    small = noise(1, 16, FRAMES, HEIGHT // 2, WIDTH // 2)
    seen = {"clip_vision_output": _seen(noise), "reference_latents": _still(noise)}
    return {**seen, "pose_video_latent": small}


def poses(noise: Noise, tokens: int) -> dict[str, Any]:
    masks = {
        "driving_mask_28ch": noise(1, FRAMES, 28, HEIGHT // 2, WIDTH // 2),
        "ref_mask_28ch": noise(1, FRAMES + 1, 28, HEIGHT, WIDTH),
    }
    return {**pose(noise, tokens), **masks}


def music(noise: Noise, tokens: int) -> dict[str, Any]:
    seen = {"clip_vision_output_ref": _seen(noise)}
    return {**image(noise, tokens), **seen, "audio_embed": noise(1, 30, 35)}
