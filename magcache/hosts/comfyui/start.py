"""What tells a sampling from others of the same model."""

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Start:
    """What is known once a sampling starts.

    Attributes:
        conds: The guider's conditions.
        latent: Shape of the latent.
        mask: What of the latent is to be denoised, (B, C, frames, H, W) for a video; None is all.
        split: Whether another sampler has the trajectory's other part, as with Wan 2.2's experts.
        made_with: Sampler, guidance, noise levels and so on, see `host.described`.
    """

    conds: Any = None
    latent: tuple[int, ...] = ()
    mask: torch.Tensor | None = None
    split: bool = False
    made_with: dict[str, Any] = field(default_factory=dict)

    def holds(self, name: str) -> bool:
        """Whether some condition holds a thing, reference latents for instance."""
        conds = self.conds if isinstance(self.conds, dict) else {}
        return any(name in cond for branch in conds.values() for cond in branch)
