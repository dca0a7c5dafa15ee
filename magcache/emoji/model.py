"""The common base of the small models as diffusers pipelines."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from .keywords import Keywords


@dataclass(frozen=True)
class EmojiPipeline(ABC):
    """A pipeline without autoencoder, and the words that replace its text encoders."""

    pipe: Any
    words: Keywords
    side: ClassVar[int] = 128  # the pipeline assumes 8x8 pixels per latent pixel, here it is 2x2

    def prompts(self, split: str) -> list[str]:
        """See `Keywords.prompts`."""
        return self.words.prompts(split)

    def arguments(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int = 28, cfg: float = 3.0
    ) -> dict[str, Any]:
        """The arguments of `pipe`, which then returns latents for `decode`.

        Args:
            prompts: One per sample, see `Keywords.embed`.
            seeds: One per prompt.
            steps: Number of sampling steps.
            cfg: CFG scale; 1 turns guidance off, otherwise an evaluation makes two calls.

        Raises:
            ValueError: A word is unknown, or the numbers of prompts and seeds differ.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts need {len(prompts)} seeds, not {len(seeds)}")
        return {
            **self._conditions(prompts, cfg),
            "height": self.side,
            "width": self.side,
            "num_inference_steps": steps,
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "output_type": "latent",
        }

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int = 28, cfg: float = 3.0
    ) -> torch.Tensor:
        """Samples and decodes. Takes and raises the same as `arguments`."""
        return self.decode(self.pipe(**self.arguments(prompts, seeds, steps, cfg))[0])

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, ..., 32, 32), RGB in [0, 1], from the pipeline's latents."""

    @abstractmethod
    def _conditions(self, prompts: Sequence[str], cfg: float) -> dict[str, Any]:
        """The pipeline's arguments for prompts and guidance."""


def pipeline(kind: Any, absent: Sequence[str], device: torch.device | str, **parts: Any) -> Any:
    """A pipeline of `parts` without progress bar; its `absent` components are None."""
    pipe = kind(**parts, **dict.fromkeys(absent))
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)
