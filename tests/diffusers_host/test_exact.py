"""What comes out: where nothing is skipped the pipeline's own, else what the method defines."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import magcache
from harness import EAGER, FAMILIES, PRESETS, distance, reference, sample
from tiny import TINY, Tiny, experts, run

STEPS = 4
NOTHING_SKIPPED = {
    "threshold 0": {"threshold": 0},
    "all within retention": {"retention": 1.0, "threshold": 9, "max_skip": 9},
}


@pytest.mark.parametrize("settings", NOTHING_SKIPPED.values(), ids=NOTHING_SKIPPED.keys())
@pytest.mark.parametrize("tiny", FAMILIES)
def test_settings_that_skip_nothing(tiny: Tiny, settings: dict[str, Any]) -> None:
    pipe = tiny.build()
    with magcache.apply(pipe, preset=PRESETS[tiny.name], **settings) as applied:
        latents, schedule = sample(pipe, tiny, steps=STEPS)
    assert schedule == "#" * STEPS
    assert torch.equal(latents, reference(tiny, steps=STEPS).latents)
    assert (applied.report().computed, applied.report().skipped) == (STEPS, 0)


@pytest.mark.parametrize(
    "settings",
    [{"max_skip": 0}, {"start_step": STEPS, "end_step": STEPS + 1}],
    ids=["K 0", "window"],
)
def test_other_settings_that_skip_nothing(settings: dict[str, Any]) -> None:
    test_settings_that_skip_nothing(TINY["flux"], {"threshold": 9, **settings})


@pytest.mark.parametrize("tiny", FAMILIES)
def test_a_calibration_run(tiny: Tiny) -> None:
    pipe = tiny.build()
    with magcache.apply(pipe, calibrate=True) as applied:
        latents, schedule = sample(pipe, tiny, steps=STEPS)
    assert schedule == "#" * STEPS
    assert torch.equal(latents, reference(tiny, steps=STEPS).latents)
    measured = applied.calibration().branches
    assert measured.keys() == {"cond", "uncond"}
    for branch in measured.values():
        assert branch.sigmas == pytest.approx(reference(tiny, steps=STEPS).sigmas)


@pytest.mark.parametrize("tiny", FAMILIES)
def test_one_branch(tiny: Tiny) -> None:
    pipe = tiny.build()
    with magcache.apply(pipe, preset=PRESETS[tiny.name], retention=1.0):
        latents, _ = sample(pipe, tiny, steps=STEPS, cfg=False)
    assert torch.equal(latents, reference(tiny, steps=STEPS, cfg=False).latents)


@pytest.mark.parametrize("tiny", [p for p in FAMILIES if p.values[0].max_batch != 1])
def test_two_samples(tiny: Tiny) -> None:
    pipe = tiny.build()
    with magcache.apply(pipe, preset=PRESETS[tiny.name], retention=1.0):
        latents, _ = sample(pipe, tiny, steps=STEPS, batch=2)
    assert torch.equal(latents, reference(tiny, steps=STEPS, batch=2).latents)


@pytest.mark.parametrize("tiny", FAMILIES)
def test_skipped_evaluations_reuse_the_last_residual_of_their_branch(tiny: Tiny) -> None:
    pipe = tiny.build()
    with magcache.apply(pipe, preset=PRESETS[tiny.name], **EAGER):
        latents, schedule = sample(pipe, tiny)
    assert schedule.count(".") >= 5
    assert distance(latents, _by_hand(tiny, schedule)) < 1e-5
    # Afterwards the pipeline is its own again.
    assert torch.equal(sample(pipe, tiny)[0], reference(tiny).latents)


def _holds(module: nn.Module, blocks: list[nn.Module]) -> bool:
    return isinstance(module, nn.ModuleList) and any(block in blocks for block in module)


def _by_hand(tiny: Tiny, schedule: str) -> Tensor:
    """The method written down anew: the model with lists taken out, head inputs exchanged."""
    pipe = tiny.build()
    calls = itertools.count()
    residuals: dict[tuple[nn.Module, int], Tensor] = {}

    def replace_forward(model: nn.Module) -> None:
        own_forward = model.forward
        lists = {n: m for n, m in model.named_children() if _holds(m, tiny.blocks(model))}

        def run_model(with_blocks: bool, added: Tensor | None, call: Callable) -> tuple:
            def head(_: nn.Module, args: tuple) -> tuple:
                seen.append(args[0].clone())
                return args if added is None else (args[0] + added, *args[1:])

            seen: list[Tensor] = []
            handle = model.norm_out.register_forward_pre_hook(head)
            for name, blocks in lists.items():
                setattr(model, name, blocks if with_blocks else nn.ModuleList())
            output = call()
            handle.remove()
            for name, blocks in lists.items():
                setattr(model, name, blocks)
            return output, seen[0]

        def forward(*args: Any, **kwargs: Any) -> Any:
            evaluation, branch = divmod(next(calls), 2)
            call = functools.partial(own_forward, *args, **kwargs)
            _, base = run_model(False, None, call)
            if schedule[evaluation] == ".":
                return run_model(False, residuals[model, branch], call)[0]
            output, full = run_model(True, None, call)
            residuals[model, branch] = full - base
            return output

        model.forward = forward

    for model in experts(pipe):
        replace_forward(model)
    return run(pipe, **tiny.inputs(pipe))
