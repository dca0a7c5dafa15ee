"""Sampling the tiny models of `magcache.doctor.tiny`, and counting which blocks run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy import model_detection

from magcache.doctor.tiny import DIM, EVERY, TEXT_TOKENS, Conds, Tiny, sample
from magcache.hosts.comfyui import models

__all__ = [
    "DIM",
    "FURTHER",
    "RELATIVES",
    "TEXT_TOKENS",
    "TINY",
    "UNFIT",
    "Conds",
    "Counted",
    "Counts",
    "Tiny",
    "count_blocks",
    "reads_fluxs_width",
    "sample",
    "sample_at",
]  # fmt: skip

_FOLLOWING = {row.kind for row in models.MODELS if row.follows}
TINY = {name: tiny for name, tiny in EVERY.items() if tiny.types}
"""Those with a published curve."""
RELATIVES = {name: t for name, t in EVERY.items() if _FOLLOWING & {t.config, t.network}}
"""Those that follow the curve of another."""
UNFIT = {name: tiny for name, tiny in EVERY.items() if tiny.network in models.UNFIT}
"""Those whose blocks must not be skipped."""
FURTHER = {n: t for n, t in EVERY.items() if n not in {**TINY, **RELATIVES, **UNFIT}}
"""The others: they are measured first."""


def reads_fluxs_width() -> bool:
    """Whether this version reads FLUX's width from the weights; older ones take it for 3072."""
    weights = TINY["flux"].build().model.diffusion_model.state_dict()
    return model_detection.detect_unet_config(weights, "").get("num_heads") == 1


def sample_at(
    patcher: Any,
    tiny: Tiny,
    sigmas: torch.Tensor,
    sampler: Any = "euler",
    cfg: float = 3.0,
    seed: int = 1,
    **options: Any,
) -> torch.Tensor:
    """Samples at given σ, as the SamplerCustom node does."""
    positive, negative = options.pop("conds", None) or tiny.conds(patcher)
    latent = options.pop("latent", None)
    latent = tiny.latent() if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed)
    if isinstance(sampler, str):
        sampler = comfy.samplers.sampler_object(sampler)
    return comfy.sample.sample_custom(
        patcher, noise, cfg, sampler, sigmas, positive, negative, latent, disable_pbar=True,
        seed=seed, **options,
    )  # fmt: skip


@dataclass
class Counted:
    """One evaluation as the blocks saw it.

    Attributes:
        sigma: Its noise level.
        calls: For each model call which conditions its rows are of (0 the positive one, 1 the
            negative one), and how many blocks ran.
    """

    sigma: float
    calls: list[tuple[tuple[int, ...], int]] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        return sum(blocks for _, blocks in self.calls)

    def of(self, kind: int) -> int:
        """Blocks that ran on rows of one kind."""
        return sum(blocks for kinds, blocks in self.calls if kind in kinds)


@dataclass
class Counts:
    """What `count_blocks` has counted."""

    evaluations: list[Counted] = field(default_factory=list)

    def __str__(self) -> str:
        """As a `Schedule` is written: # with blocks, . without."""
        return "".join("#" if each.blocks else "." for each in self.evaluations)

    @property
    def computed(self) -> int:
        return str(self).count("#")

    @property
    def skipped(self) -> int:
        return str(self).count(".")


@contextmanager
def count_blocks(patcher: Any, tiny: Tiny) -> Iterator[Counts]:
    """Counts the calls of blocks in the samplings of a ModelPatcher, an evaluation."""
    counts, key = Counts(), "count_blocks"

    def begin(executor: Any, *args: Any, **kwargs: Any) -> Any:
        counts.evaluations.append(Counted(float(args[1].flatten()[0])))
        return executor(*args, **kwargs)

    def call(executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = args[5] if len(args) > 5 else kwargs.get("transformer_options", {})
        before = _ran[0]
        output = executor(*args, **kwargs)
        kinds = tuple(options.get("cond_or_uncond", ()))
        counts.evaluations[-1].calls.append((kinds, _ran[0] - before))
        return output

    _ran = [0]

    def ran(*_: Any) -> None:
        _ran[0] += 1

    handles = [block.register_forward_pre_hook(ran) for block in tiny.blocks(patcher)]
    patcher.add_wrapper_with_key("predict_noise", key, begin)
    patcher.add_wrapper_with_key("apply_model", key, call)
    try:
        yield counts
    finally:
        for kind in ("predict_noise", "apply_model"):
            patcher.remove_wrappers_with_key(kind, key)
        for handle in handles:
            handle.remove()
