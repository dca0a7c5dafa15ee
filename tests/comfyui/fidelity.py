"""How exactly a model without its blocks, given their true residual, is the model itself."""

from typing import Any

import torch

from magcache.blocks.families import find_stack
from magcache.blocks.stack import BlockStack
from magcache.doctor.tiny import Tiny, flat, sample, skip_errors
from magcache.hosts.comfyui.models import FAMILIES

__all__ = ["fidelity", "flat"]


def fidelity(
    model: Any, tiny: Tiny, steps: int = 2, **options: Any
) -> tuple[list[float], BlockStack]:
    """Skips each model call of a sampling with its own residual, beside computing it.

    Args:
        model: The ModelPatcher.
        tiny: What it is.
        steps: Steps of the sampling.
        options: Passed on to `sample`.

    Returns:
        The relative error of each skipped call, and the stack.

    Raises:
        AssertionError: Sampling is not as without all this.
        RuntimeError: There is no residual.
    """
    stack = find_stack(model.model.diffusion_model, FAMILIES)
    found = skip_errors(model, tiny, stack, steps, **options)
    assert torch.equal(found.output, flat(sample(model, tiny, steps, **options)))
    return found.errors, stack
