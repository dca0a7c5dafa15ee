"""Tiny models of the classes that ComfyUI derives from Wan, with all that they are given.

Which of them there are depends on ComfyUI's version.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from .model import VIDEO, Noise, Tiny
from .published import WAN

FRAMES, HEIGHT, WIDTH = VIDEO[2:]


def _read_motion_off(network: Any) -> None:
    """A face's 512 pixels a side take seconds on a CPU: its motion is read off it here."""
    if hasattr(network, "motion_encoder"):
        network.motion_encoder.get_motion = lambda face: face.flatten(1)[:, :512]


def _seen(noise: Noise) -> SimpleNamespace:
    return SimpleNamespace(penultimate_hidden_states=noise(1, 5, 1280))


def _image(noise: Noise, channels: int = 16) -> dict[str, Any]:
    mask = torch.ones(1, 1, FRAMES, HEIGHT, WIDTH)
    mask[:, :, :1] = 0
    image = {"concat_latent_image": noise(1, channels, FRAMES, HEIGHT, WIDTH)}
    return {"clip_vision_output": _seen(noise), "concat_mask": mask, **image}


def _frame(noise: Noise) -> list[torch.Tensor]:
    return [noise(1, 16, 1, HEIGHT, WIDTH)]


def _camera(noise: Noise) -> dict[str, Any]:
    path = noise(1, 24, FRAMES, 8 * HEIGHT, 8 * WIDTH)
    return {**_image(noise), "camera_conditions": path}


def _speech(noise: Noise) -> dict[str, Any]:
    return {
        "audio_embed": noise(1, 25, 1024, 4 * FRAMES), "reference_latents": _frame(noise),
        "control_video": noise(1, 16, FRAMES, HEIGHT, WIDTH),
        "reference_motion": noise(1, 16, 19, HEIGHT, WIDTH),
    }  # fmt: skip


def _human(noise: Noise) -> dict[str, Any]:
    audio = noise(1, FRAMES, 8, 5, 1280)
    return {"audio_embed": audio, "reference_latents": _frame(noise)}


def _animate(noise: Noise) -> dict[str, Any]:
    pose = noise(1, 16, FRAMES - 1, HEIGHT, WIDTH)
    return {**_image(noise), "face_video_pixels": noise(1, 3, 4, 16, 16), "pose_video_latent": pose}


def _animate2(noise: Noise) -> dict[str, Any]:
    return {**_image(noise), "pose_video_latent": noise(1, 16, FRAMES - 1, HEIGHT, WIDTH)}


def _pose(noise: Noise) -> dict[str, Any]:
    small = noise(1, 16, FRAMES, HEIGHT // 2, WIDTH // 2)
    seen = {"clip_vision_output": _seen(noise), "reference_latents": _frame(noise)}
    return {**seen, "pose_video_latent": small}


def _poses(noise: Noise) -> dict[str, Any]:
    masks = {
        "driving_mask_28ch": noise(1, FRAMES, 28, HEIGHT // 2, WIDTH // 2),
        "ref_mask_28ch": noise(1, FRAMES + 1, 28, HEIGHT, WIDTH),
    }
    return {**_pose(noise), **masks}


def _music(noise: Noise) -> dict[str, Any]:
    seen = {"clip_vision_output_ref": _seen(noise)}
    return {**_image(noise), **seen, "audio_embed": noise(1, 30, 35)}


def _relative(
    config: str,
    network: str,
    given: Callable[[Noise], dict[str, Any]],
    depth: int = 3,
    **sizes: Any,
) -> Tiny:
    changed = {**WAN, "num_layers": depth, **sizes}
    return Tiny(
        config, config, network, ("blocks",), VIDEO, 4096, 0, changed, depth="num_layers",
        given=lambda noise, _tokens: given(noise), prepare=_read_motion_off,
    )  # fmt: skip


_ALL = (
    _relative("WAN21_Camera", "CameraWanModel", _camera, model_type="camera", in_dim=32),
    _relative("WAN22_Camera", "CameraWanModel", _camera, model_type="camera_2.2", in_dim=36),
    _relative("WAN22_S2V", "WanModel_S2V", _speech, model_type="s2v", audio_inject_layers=[0, 2]),
    _relative("WAN21_HuMo", "HumoWanModel", _human, depth=2, model_type="humo", in_dim=36),
    _relative("WAN22_Animate", "AnimateWanModel", _animate, 5, model_type="animate", in_dim=36),
    _relative("WAN_Animate2", "WanAnimate2Model", _animate2, model_type="animate2", in_dim=36),
    _relative("WAN21_SCAIL", "SCAILWanModel", _pose, model_type="scail", in_dim=20),
    _relative("WAN21_SCAIL2", "SCAIL2WanModel", _poses, model_type="scail2", in_dim=20),
    _relative(
        "WAN22_WanDancer", "WanDancerModel", _music, model_type="wandancer", in_dim=36,
        audio_inject_layers=[0, 2],
    ),
    _relative(
        "WAN21_FunControl2V", "WanModel", lambda noise: _image(noise, 32), model_type="i2v",
        in_dim=48,
    ),
)  # fmt: skip
RELATIVES = {tiny.name: tiny for tiny in _ALL if tiny.there}
FLOW_RVS = _relative("WAN21_FlowRVS", "WanModel", lambda _: {}, model_type="flow_rvs")
CAUSAL = _relative("WAN21_CausalAR_T2V", "CausalWanModel", lambda _: {})
