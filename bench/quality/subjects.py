"""The models that the ways are compared on."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from magcache.emoji import image as emoji
from magcache.emoji import video as emoji_video


class Subject(Protocol):
    """A model with a diffusers pipeline, and prompts that no calibration sees.

    Attributes:
        name: For file names and titles.
        lists: Names of the transformer's block lists.
        preset: The published curve that the rule uses, or None for its calibration.
        calibration_prompts: Those that calibrations see; one is enough.
        prompts: Those that ways are compared on.
        comfyui: Whether ComfyUI's part of the bench knows the model.
    """

    name: str
    lists: tuple[str, ...]
    preset: str | None
    calibration_prompts: Sequence[str]
    prompts: Sequence[str]
    comfyui: bool

    def pipeline(self, shift: float) -> Any:
        """A fresh diffusers pipeline."""
        ...

    def arguments(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int, cfg: float
    ) -> dict[str, Any]:
        """The pipeline's arguments for one image or clip a prompt."""
        ...

    def frames(self, latents: Any) -> np.ndarray:
        """The pipeline's latents as (N, frames, H, W, 3) in [0, 1]; an image is one frame."""
        ...


class _Bundled:
    """What the small trained models of this repository have in common; `library` loads one."""

    library: Any

    def __init__(self) -> None:
        self._model = self.library.load()
        self.calibration_prompts: Sequence[str] = self._model.prompts("calibration")
        self.prompts: Sequence[str] = self._model.prompts("test")

    def pipeline(self, shift: float) -> Any:
        self._model = self.library.load(shift=shift)
        return self._model.pipe

    def arguments(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int, cfg: float
    ) -> dict[str, Any]:
        return self._model.arguments(prompts, seeds, steps, cfg)


class Emoji(_Bundled):
    """The bundled emoji model, FLUX's architecture."""

    library = emoji
    name = "emoji"
    lists: tuple[str, ...] = ("transformer_blocks", "single_transformer_blocks")
    preset: str | None = "emoji"
    comfyui = True

    def frames(self, latents: Any) -> np.ndarray:
        return emoji.to_images(latents).permute(0, 2, 3, 1)[:, None].numpy()


class EmojiVideo(_Bundled):
    """The bundled video model, Wan 2.1's architecture."""

    library = emoji_video
    name = "emoji-video"
    lists: tuple[str, ...] = ("blocks",)
    preset: str | None = None
    comfyui = False

    def frames(self, latents: Any) -> np.ndarray:
        return emoji_video.to_clips(latents).permute(0, 2, 3, 4, 1).numpy()


SUBJECTS: dict[str, Callable[[], Subject]] = {"emoji": Emoji, "emoji-video": EmojiVideo}
