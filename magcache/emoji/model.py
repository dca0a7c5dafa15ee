"""What the small models have in common as pipelines of diffusers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from .keywords import Keywords


@dataclass(frozen=True)
class EmojiPipeline(ABC):
    """A pipeline without autoencoder, and the words that stand in for its text encoders."""

    pipe: Any
    words: Keywords
    side: ClassVar[int] = 128  # the pipeline takes a latent pixel for 8x8 pixels, here it is 2x2

    def prompts(self, split: str) -> list[str]:
        """Its fixed sets of prompts, see `Keywords.prompts`."""
        return self.words.prompts(split)

    def arguments(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int = 28, cfg: float = 3.0
    ) -> dict[str, Any]:
        """The arguments of `pipe`, which then returns latents for `decode`.

        Args:
            prompts: One a sample, see `Keywords.embed`.
            seeds: One a prompt.
            steps: Steps of the sampler.
            cfg: Classifier-free guidance, two calls an evaluation; 1 turns it off.

        Raises:
            ValueError: A word is unknown, or there is not one seed a prompt.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
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
        """What `decode` makes of the latents; takes and raises what `arguments` does."""
        return self.decode(self.pipe(**self.arguments(prompts, seeds, steps, cfg))[0])

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, ..., 32, 32), RGB in [0, 1], from the pipeline's latents."""

    @abstractmethod
    def _conditions(self, prompts: Sequence[str], cfg: float) -> dict[str, Any]:
        """The pipeline's arguments for prompts and guidance."""


def pipeline(kind: Any, absent: Sequence[str], device: torch.device | str, **parts: Any) -> Any:
    """A quiet pipeline of `parts`, without those that are `absent`."""
    pipe = kind(**parts, **dict.fromkeys(absent))
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)
