"""What is known about a run when it starts."""

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Start:
    """The start of a run.

    Attributes:
        conds: The guider's conditions.
        latent: Shape of the latent.
        mask: The part of the latent to denoise, (B, C, frames, H, W) for a video; None is all.
        split: Whether another sampler runs the other part of the trajectory, as with Wan 2.2.
        made_with: Sampler, guidance, noise levels and so on, see `host.described`.
    """

    conds: Any = None
    latent: tuple[int, ...] = ()
    mask: torch.Tensor | None = None
    split: bool = False
    made_with: dict[str, Any] = field(default_factory=dict)

    def holds(self, name: str) -> bool:
        """Whether any condition has an entry of this name, for instance "reference_latents"."""
        conds = self.conds if isinstance(self.conds, dict) else {}
        return any(name in cond for branch in conds.values() for cond in branch)
