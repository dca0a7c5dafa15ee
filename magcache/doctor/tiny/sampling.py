"""Sampling a tiny model as ComfyUI does, and skipping its blocks beside computing them."""

from dataclasses import dataclass
from typing import Any

import comfy.sample
import torch

from ...blocks import BlockStack
from .model import Tiny


@dataclass(frozen=True)
class Skips:
    """What `skip_errors` finds.

    Attributes:
        errors: The relative error of each skipped call.
        output: The sampling's latent, flat; that of the computed calls.
    """

    errors: list[float]
    output: torch.Tensor


def sample(
    patcher: Any,
    tiny: Tiny,
    steps: int = 6,
    sampler: str = "euler",
    scheduler: str = "simple",
    cfg: float = 3.0,
    seed: int = 1,
    **options: Any,
) -> Any:
    """Samples as the KSampler node does; `options` go to `comfy.sample.sample`."""
    positive, negative = options.pop("conds", None) or tiny.conds(patcher)
    latent = options.pop("latent", None)
    latent = tiny.latent() if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample(
        patcher, noise, steps, cfg, sampler, scheduler, positive, negative, latent,
        disable_pbar=True, seed=seed, **options,
    )  # fmt: skip


def flat(output: Any) -> torch.Tensor:
    """All values of a latent or of a model's output, which may be of several streams."""
    streams = output.unbind() if getattr(output, "is_nested", False) else output
    if isinstance(streams, torch.Tensor):
        return streams.flatten()
    return torch.cat([stream.flatten() for stream in streams])


def skip_errors(model: Any, tiny: Tiny, stack: BlockStack, steps: int, **options: Any) -> Skips:
    """Skips each model call of a sampling with its own residual, beside computing it.

    Args:
        model: The ModelPatcher.
        tiny: What it is.
        stack: The blocks of its network.
        steps: Steps of the sampling.
        options: Passed on to `sample`.

    Raises:
        RuntimeError: The stack gives no residual; says why.
    """
    errors: list[float] = []

    def both(executor: Any, *args: Any, **kwargs: Any) -> Any:
        def forward() -> Any:
            return executor(*args, **kwargs)

        full, residual = stack.compute(forward)
        if residual is None:
            raise RuntimeError(f"its residual cannot be taken: {stack.problem}")
        skipped, expected = flat(stack.skip(forward, residual)), flat(full)
        errors.append(float((skipped - expected).norm() / expected.norm()))
        return full

    wrapped = model.clone()
    wrapped.add_wrapper_with_key("apply_model", "both", both)
    return Skips(errors, flat(sample(wrapped, tiny, steps, **options)))
