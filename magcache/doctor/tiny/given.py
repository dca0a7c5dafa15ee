"""What the tiny models' conditions hold besides text: references, images, sound, poses.

A tuple stands for noise of that shape, where None means the text's length. A function is called
with that length.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch

TEXT, POOLED = 32, 24  # default channels
IMAGE, VIDEO = (1, 16, 8, 8), (1, 16, 2, 8, 8)
FRAMES, HEIGHT, WIDTH = VIDEO[2:]
Noise = Callable[..., torch.Tensor]
"""Returns seeded noise of a shape."""
Given = Mapping[str, Any]


def filled(given: Any, noise: Noise, tokens: int) -> Any:
    """`given` with its placeholders filled in, for a text of `tokens` tokens."""
    if isinstance(given, tuple):
        return noise(*(tokens if size is None else size for size in given))
    if isinstance(given, list):
        return [filled(each, noise, tokens) for each in given]
    if isinstance(given, Mapping):
        return {name: filled(each, noise, tokens) for name, each in given.items()}
    if isinstance(given, SimpleNamespace):
        return SimpleNamespace(**filled(vars(given), noise, tokens))
    return given(tokens) if callable(given) else given


def _mask(tokens: int, padding: int = 0) -> torch.Tensor:
    mask = torch.ones(1, tokens, dtype=torch.int64)
    mask[:, tokens - padding :] = 0
    return mask


def _padded(tokens: int) -> torch.Tensor:
    return _mask(tokens, 2)


def _behind_the_first_frame(_tokens: int) -> torch.Tensor:
    mask = torch.ones(1, 1, FRAMES, HEIGHT, WIDTH)
    mask[:, :, :1] = 0
    return mask


NOTHING: Given = {}
MASKED = {"attention_mask": _mask}
PADDED = {"attention_mask": _padded}
REFERENCE = {"reference_latents": [(1, 16, 4, 8)]}
REFERENCES = {**MASKED, "reference_latents": [(1, 16, 6, 8), (1, 16, 4, 2)]}
# The references' tokens have another timestep than the image's.
REFERENCES_AT_ZERO = {**REFERENCES, "reference_latents_method": "index_timestep_zero"}
REFERENCE_OF_64 = {"reference_latents": [(1, 64, 4, 2)]}
PICTURES = {"reference_latents": [(1, 16, 1, 6, 8)]}
_TOWER = SimpleNamespace(last_hidden_state=(1, 4, 12), image_sizes=lambda _: [(3, 32, 32)])
# Each reference has its own text and vision tower output.
OMNI = {
    **REFERENCES, "reference_latents_text_embeds": [(1, 5, TEXT), (1, 3, TEXT)],
    "clip_vision_outputs": [_TOWER, _TOWER],
}  # fmt: skip
GLYPHS = {"conditioning_byt5small": (1, 4, 1472)}
GLYPHS_AND_IMAGE = {
    **GLYPHS, "clip_vision_output": SimpleNamespace(last_hidden_state=(1, 5, 1152)),
}  # fmt: skip
LLAMA = {"conditioning_llama3": (1, 2, None, 40)}
HYDIT = {
    "conditioning_mt5xl": (1, 5, 16), "attention_mask_mt5xl": lambda _: _mask(5, 1), **PADDED,
}  # fmt: skip
IDS = {"t5xxl_ids": torch.arange, "t5xxl_weights": torch.ones}
TOKENS_ONLY = {"text_input_ids": lambda tokens: torch.arange(tokens)[None]}

CHANNELS = {"concat_latent_image": VIDEO}
# The first frame is given, so each frame has its own timestep.
FRAME = {"concat_mask": _behind_the_first_frame}
KEYFRAME = {"minimax_keyframes": [{"resolved_frame_index": 1, "latent": (1, 24, 1, 4, 4)}]}
_SEEN = SimpleNamespace(penultimate_hidden_states=(1, 5, 1280))
_STILL = [(1, 16, 1, HEIGHT, WIDTH)]
# Wan's image condition: CLIP vision output, latent, and frame mask.
WAN_IMAGE = {**CHANNELS, **FRAME, "clip_vision_output": _SEEN}
CONTROL = {**WAN_IMAGE, "concat_latent_image": (1, 32, FRAMES, HEIGHT, WIDTH)}
VACE = {
    "vace_frames": [(1, 32, FRAMES, HEIGHT, WIDTH)],
    "vace_mask": [lambda _: torch.ones(1, 64, FRAMES, HEIGHT, WIDTH)],
    "vace_strength": [0.7],
}
CAMERA = {**WAN_IMAGE, "camera_conditions": (1, 24, FRAMES, 8 * HEIGHT, 8 * WIDTH)}
SPEECH = {
    "audio_embed": (1, 25, 1024, 4 * FRAMES), "reference_latents": _STILL,
    "control_video": VIDEO, "reference_motion": (1, 16, 19, HEIGHT, WIDTH),
}  # fmt: skip
HUMAN = {"audio_embed": (1, FRAMES, 8, 5, 1280), "reference_latents": _STILL}
POSE_BEHIND = {**WAN_IMAGE, "pose_video_latent": (1, 16, FRAMES - 1, HEIGHT, WIDTH)}
FACE_AND_POSE = {**POSE_BEHIND, "face_video_pixels": (1, 3, 4, 16, 16)}
POSE = {
    "clip_vision_output": _SEEN, "reference_latents": _STILL,
    "pose_video_latent": (1, 16, FRAMES, HEIGHT // 2, WIDTH // 2),
}  # fmt: skip
POSES = {
    **POSE, "driving_mask_28ch": (1, FRAMES, 28, HEIGHT // 2, WIDTH // 2),
    "ref_mask_28ch": (1, FRAMES + 1, 28, HEIGHT, WIDTH),
}  # fmt: skip
MUSIC = {**WAN_IMAGE, "clip_vision_output_ref": _SEEN, "audio_embed": (1, 30, 35)}
