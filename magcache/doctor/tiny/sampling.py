"""Samples a tiny model like ComfyUI, and compares skipped with computed calls."""

from dataclasses import dataclass
from typing import Any

import comfy.sample
import torch

from ...blocks import BlockStack
from .model import Tiny


@dataclass(frozen=True)
class Skips:
    """The result of `skip_errors`.

    Attributes:
        errors: Relative error of each skipped call.
        output: The latent sampled with the computed calls, flattened.
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
    """Samples like the KSampler node; `options` go to `comfy.sample.sample`."""
    positive, negative = options.pop("conds", None) or tiny.conds(patcher)
    latent = options.pop("latent", None)
    latent = tiny.latent() if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample(
        patcher, noise, steps, cfg, sampler, scheduler, positive, negative, latent,
        disable_pbar=True, seed=seed, **options,
    )  # fmt: skip


def flat(output: Any) -> torch.Tensor:
    """All values of a latent or a model's output, which may have several streams."""
    streams = output.unbind() if getattr(output, "is_nested", False) else output
    if isinstance(streams, torch.Tensor):
        return streams.flatten()
    return torch.cat([stream.flatten() for stream in streams])


def skip_errors(model: Any, tiny: Tiny, stack: BlockStack, steps: int, **options: Any) -> Skips:
    """Computes each model call of a sampling, and also skips it with its own residual.

    Args:
        model: The ModelPatcher.
        tiny: The tiny model that it was built from.
        stack: The block stack of its network.
        steps: Number of sampling steps.
        options: Passed on to `sample`.

    Raises:
        RuntimeError: The stack gives no residual; the message says why.
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
