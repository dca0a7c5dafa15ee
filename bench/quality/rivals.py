"""The caches of diffusers and cache-dit, installed as their own projects do it."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from .condition import Setting, grid, reaching
from .ways import THRESHOLDS, Situation, Way

DIFFERENCES = [float(x) for x in np.geomspace(0.03, 0.8, 8).round(3)]


@contextmanager
def _enabled(make: Callable[[Situation, Setting], Any], s: Situation, x: Setting) -> Iterator[None]:
    """Enables one of diffusers' caches, and removes it with its state afterwards."""
    transformer = s.pipe.transformer
    transformer.enable_cache(make(s, x))
    try:
        yield
    finally:
        transformer.disable_cache()


def magcache_schedule(ratios: Sequence[float], setting: Setting) -> list[bool]:
    """The steps that diffusers' MagCache computes, from its documented settings."""
    computed, product, error, skipped = [], 1.0, 0.0, 0
    first = int(setting["retention_ratio"] * len(ratios) + 0.5)
    for step, ratio in enumerate(ratios):
        skip = False
        if step >= first:
            product, skipped = product * ratio, skipped + 1
            error += abs(1 - product)
            within = error <= setting["threshold"] and skipped <= setting["max_skip_steps"]
            skip = step > 0 and within
            if not skip:
                product, error, skipped = 1.0, 0.0, 0
        computed.append(not skip)
    return computed


def _magcache_settings(s: Situation) -> list[Setting]:
    retentions = (0.05, 0.1, 0.2, 0.3, 0.4)
    settings = grid(max_skip_steps=range(1, 7), retention_ratio=retentions)
    schedule = partial(magcache_schedule, s.ratios)
    return reaching(s.condition.targets, settings, "threshold", THRESHOLDS, schedule)


def _magcache(s: Situation, x: Setting) -> Any:
    from diffusers.hooks import MagCacheConfig

    return MagCacheConfig(**x, num_inference_steps=s.condition.steps, mag_ratios=s.ratios)


def _first_block(_s: Situation, x: Setting) -> Any:
    from diffusers.hooks import FirstBlockCacheConfig

    return FirstBlockCacheConfig(**x)


def _taylorseer(_s: Situation, x: Setting) -> Any:
    from diffusers.hooks import TaylorSeerCacheConfig

    return TaylorSeerCacheConfig(**x, taylor_factors_dtype=torch.float32)


def taylorseer_schedule(steps: int, setting: Setting) -> list[bool]:
    """The steps that diffusers' TaylorSeer computes, from its documented settings."""
    before, interval = setting["disable_cache_before_step"], setting["cache_interval"]
    return [step < before or (step - before - 1) % interval == 0 for step in range(steps)]


def _taylorseer_settings(s: Situation) -> list[Setting]:
    orders = grid(max_order=(1, 2))
    whole = reaching(
        s.condition.targets,
        grid(cache_interval=(2, 3, 4, 5, 6), use_lite_mode=(True,)),
        "disable_cache_before_step",
        range(2, s.condition.steps),
        partial(taylorseer_schedule, s.condition.steps),
    )
    # Otherwise it predicts only attention, and three quarters of the work remain at any interval.
    attention = grid(cache_interval=(2, 4), disable_cache_before_step=(2,), use_lite_mode=(False,))
    return [{**setting, **order} for setting in whole + attention for order in orders]


@contextmanager
def _sea(s: Situation, x: Setting) -> Iterator[None]:
    """SeaCache, with what FLUX's pipeline does not pass to it: step, σ and shape of the latents."""
    from diffusers.hooks import SeaCacheConfig

    transformer = s.pipe.transformer
    original = transformer.cache_context

    def context(name: str, **_given: Any) -> Any:
        scheduler = s.pipe.scheduler
        step = scheduler.step_index if scheduler.step_index is not None else 0
        sigma = float(scheduler.sigmas[step])
        known = {"step_index": step, "sigma": sigma, "num_inference_steps": s.condition.steps}
        return original(name, **known)

    config = SeaCacheConfig(**x, raw_vision_callback=_latents)
    transformer.cache_context = context
    try:
        with _enabled(lambda _s, _x: config, s, x):
            yield
    finally:
        del transformer.cache_context


def _latents(
    _module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[torch.Tensor]:
    """Latents (C, frames, H, W) of each prompt; FLUX's tokens are unpacked."""
    states = args[0] if args else kwargs["hidden_states"]
    if states.ndim == 5:
        return list(states)
    side = int(states.shape[1] ** 0.5)
    square = states.transpose(1, 2).unflatten(2, (side, side))
    return list(torch.nn.functional.pixel_shuffle(square, 2)[:, :, None])


@contextmanager
def _dbcache(s: Situation, x: Setting) -> Iterator[None]:
    """cache-dit's DBCache, which decides about all other blocks from a change in the first."""
    os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")
    import cache_dit

    kept = dict(x)
    order = kept.pop("taylorseer_order", None)
    config = cache_dit.DBCacheConfig(
        **kept,
        Bn_compute_blocks=0,
        enable_separate_cfg=s.condition.branches == 2,
        num_inference_steps=s.condition.steps,
    )
    taylor = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order) if order else None
    cache_dit.enable_cache(s.pipe, cache_config=config, calibrator_config=taylor)
    try:
        yield
    finally:
        cache_dit.disable_cache(s.pipe)


def _dbcache_settings(_s: Situation, **more: Sequence[int]) -> list[Setting]:
    return grid(
        residual_diff_threshold=DIFFERENCES,
        max_warmup_steps=(2, 6),
        Fn_compute_blocks=(1,),
        **more,
    )


DIFFUSERS = [
    Way("diffusers MagCache", _magcache_settings, partial(_enabled, _magcache)),
    Way(
        "diffusers FirstBlockCache",
        lambda _s: grid(threshold=DIFFERENCES),
        partial(_enabled, _first_block),
        alone=True,
        knob="threshold",
    ),
    Way("diffusers TaylorSeer", _taylorseer_settings, partial(_enabled, _taylorseer)),
    Way(
        "diffusers SeaCache",
        lambda _s: grid(
            threshold=DIFFERENCES, residual_order=(0, 1), max_consecutive_cached=(2, 0)
        ),
        _sea,
        alone=True,
        knob="threshold",
    ),
]
CACHE_DIT = [
    Way(
        name,
        partial(_dbcache_settings, **more),
        _dbcache,
        alone=True,
        own_pipe=True,
        knob="residual_diff_threshold",
    )
    for name, more in (
        ("cache-dit DBCache", {}),
        ("cache-dit DBCache + TaylorSeer", {"taylorseer_order": (1, 2)}),
    )
]


def available() -> tuple[list[Way], list[str]]:
    """The rivals that can run here, and why the others cannot."""
    if importlib.util.find_spec("cache_dit"):
        return DIFFUSERS + CACHE_DIT, []
    return DIFFUSERS, ["cache-dit is not installed: pip install -e '.[bench]' -c constraints.txt"]
