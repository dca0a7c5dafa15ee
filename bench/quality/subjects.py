"""The models on which ways are compared."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Protocol

import numpy as np
from diffusers import DPMSolverMultistepScheduler

from magcache.emoji import image as emoji
from magcache.emoji import unet as emoji_unet
from magcache.emoji import video as emoji_video

from .condition import Condition


class Subject(Protocol):
    """A model with a diffusers pipeline, and prompts that no calibration sees.

    Attributes:
        name: Name in file names and titles.
        lists: Names of the network's block lists.
        preset: The published curve for the rule, or None to use the calibration.
        calibration_prompts: Prompts for calibrations; one is enough.
        prompts: Prompts on which ways are compared.
        conditions: The published conditions.
    """

    name: str
    lists: tuple[str, ...]
    preset: str | None
    calibration_prompts: Sequence[str]
    prompts: Sequence[str]
    conditions: Sequence[Condition]

    def pipeline(self, condition: Condition) -> Any:
        """A fresh diffusers pipeline."""
        ...

    def arguments(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int, cfg: float
    ) -> dict[str, Any]:
        """The pipeline's arguments for one image or clip per prompt."""
        ...

    def frames(self, latents: Any) -> np.ndarray:
        """The pipeline's latents as (N, frames, H, W, 3) in [0, 1]; an image is one frame."""
        ...


def network(pipe: Any) -> Any:
    """The network of a pipeline."""
    return getattr(pipe, "transformer", None) or pipe.unet


class _Bundled:
    """Base of this repository's small trained models; `library` loads one."""

    library: Any
    conditions: Sequence[Condition] = [
        Condition(steps, cfg, shift) for steps, cfg, shift in product((28, 20), (3, 1), (1, 3))
    ]

    def __init__(self) -> None:
        self._model = self.library.load()
        self.calibration_prompts: Sequence[str] = self._model.prompts("calibration")
        self.prompts: Sequence[str] = self._model.prompts("test")

    def pipeline(self, condition: Condition) -> Any:
        self._model = self.library.load(shift=condition.shift)
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

    def frames(self, latents: Any) -> np.ndarray:
        return emoji.to_images(latents).permute(0, 2, 3, 1)[:, None].numpy()


class EmojiVideo(_Bundled):
    """The bundled video model, Wan 2.1's architecture."""

    library = emoji_video
    name = "emoji-video"
    lists: tuple[str, ...] = ("blocks",)
    preset: str | None = None

    def frames(self, latents: Any) -> np.ndarray:
        return emoji_video.to_clips(latents).permute(0, 2, 3, 4, 1).numpy()


class EmojiUNet(_Bundled):
    """The bundled U-Net, SDXL's architecture."""

    library = emoji_unet
    name = "emoji-unet"
    lists: tuple[str, ...] = ("conv_in", "down_blocks", "mid_block", "up_blocks")
    preset: str | None = None
    conditions: Sequence[Condition] = [
        Condition(steps, 5.0, None, sampler)
        for steps, sampler in product((28, 20), ("euler", "dpmpp_2m"))
    ]

    def pipeline(self, condition: Condition) -> Any:
        self._model = self.library.load()
        pipe = self._model.pipe
        if condition.sampler == "dpmpp_2m":
            pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
        return pipe

    def frames(self, latents: Any) -> np.ndarray:
        return self._model.decode(latents).permute(0, 2, 3, 1)[:, None].numpy()


SUBJECTS: dict[str, Callable[[], Subject]] = {
    kind.name: kind for kind in (Emoji, EmojiVideo, EmojiUNet)
}
