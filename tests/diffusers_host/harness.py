"""What the tests of the diffusers host share: presets, counted blocks, uncached references."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from magcache.curves import Calibration, Measurement, presets
from tests.calibrations import sigmas_of, steps_of
from tiny import TINY, Tiny, experts, run, step_sigma, watch_calls, with_scheduler

PRESETS = {
    "flux": "flux",
    "flux_kontext": "flux_kontext",
    "chroma": "chroma",
    "qwen_image": "qwen_image",
    "hunyuan_video": "hunyuan_video",
    "hunyuan_video1.5": "hunyuan_video_1.5_20steps",
    "wan2.1_t2v": "wan2.1_t2v_14B",
    "wan2.1_i2v": "wan2.1_i2v_480p_14B",
    "wan2.1_vace": "wan2.1_vace_1.3B",
    "wan2.2_t2v": "wan2.2_t2v_14B",
    "framepack": "framepack",
}
FAMILIES = [pytest.param(tiny, id=name) for name, tiny in TINY.items()]
EAGER = {"threshold": 9.0, "max_skip": 3, "retention": 0.2}
"""Settings under which only K and retention ask for computed evaluations."""


@dataclass
class BlockCalls:
    """The blocks that ran in each model call, beside those there are."""

    calls: list[tuple[list[nn.Module], list[nn.Module]]] = field(default_factory=list)

    def schedule(self, branches: int = 1) -> str:
        """Of each evaluation: `#` all blocks of all branches ran, each once and in order; `.` none.

        `?` is anything else, for instance one branch computed and another skipped.
        """
        of_call = ["#" if ran == there else "?" if ran else "." for there, ran in self.calls]
        evaluations = zip(*(of_call[b::branches] for b in range(branches)), strict=True)
        return "".join(e[0] if len(set(e)) == 1 else "?" for e in evaluations)


@contextmanager
def counted(pipe: DiffusionPipeline, tiny: Tiny) -> Iterator[BlockCalls]:
    """Records the blocks that run, seen by hooks on the blocks themselves."""
    seen = BlockCalls()
    handles = []
    for model in experts(pipe):
        blocks = tiny.blocks(model)
        begin = lambda _, __, blocks=blocks: seen.calls.append((blocks, []))  # noqa: E731
        handles.append(model.register_forward_pre_hook(begin))
        for block in blocks:
            note = lambda block, _: seen.calls[-1][1].append(block)  # noqa: E731
            handles.append(block.register_forward_pre_hook(note))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Reference:
    """An uncached run: its result, and σ of each of its evaluations."""

    latents: Tensor
    sigmas: tuple[float, ...]


def reference(tiny: Tiny, scheduler: str | None = None, **options: Any) -> Reference:
    """An uncached run on a new pipeline; `options` are for `Tiny.inputs`."""
    return _reference(tiny.name, scheduler, tuple(sorted(options.items())))


@cache
def _reference(name: str, scheduler: str | None, options: tuple[tuple[str, Any], ...]) -> Reference:
    tiny, settings = TINY[name], dict(options)
    pipe = build(tiny, scheduler)
    sigmas: list[float] = []
    with watch_calls(pipe, lambda _: sigmas.append(step_sigma(pipe.scheduler))):
        latents = run(pipe, **tiny.inputs(pipe, **settings))
    branches = tiny.calls_per_evaluation[settings.get("cfg", True)]
    return Reference(latents, tuple(sigmas[::branches]))


def build(tiny: Tiny, scheduler: str | None = None) -> DiffusionPipeline:
    """A new pipeline, with its own scheduler or another."""
    pipe = tiny.build()
    return with_scheduler(pipe, scheduler) if scheduler else pipe


def sample(pipe: DiffusionPipeline, tiny: Tiny, **options: Any) -> tuple[Tensor, str]:
    """The result of a run, and the schedule that its blocks show."""
    with counted(pipe, tiny) as blocks:
        latents = run(pipe, **tiny.inputs(pipe, **options))
    return latents, blocks.schedule(tiny.calls_per_evaluation[options.get("cfg", True)])


def own_preset(tiny: Tiny, sigmas: tuple[float, ...]) -> Calibration:
    """The family's preset as if its list had been measured at these σ; `sigmas` falls."""
    preset = presets.load(PRESETS[tiny.name])
    assert len(sigmas) == steps_of(preset)
    if sigmas_of(preset) is None:
        return preset
    branches = {b: Measurement(list(sigmas), m.ratios) for b, m in preset.branches.items()}
    return dataclasses.replace(preset, branches=branches)


def distance(first: Tensor, second: Tensor) -> float:
    """‖first - second‖ / ‖second‖."""
    return float((first - second).norm() / second.norm())
