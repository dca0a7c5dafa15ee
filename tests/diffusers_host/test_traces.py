"""Afterwards model and pipeline are as they were, and no residual is alive."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

import magcache
from harness import EAGER, FAMILIES, PRESETS
from magcache.blocks.cache import ResidualCache
from magcache.run import Run
from test_restart import break_in_block, break_in_callback, break_in_scheduler, interrupt
from tiny import TINY, Tiny, experts, run

STEPS = 8


def state(pipe: DiffusionPipeline) -> dict[str, Any]:
    """All that could be left on a pipeline and on the modules of its transformers."""
    # A run leaves figures of its own on a pipeline, `_num_timesteps` for instance.
    found: dict[str, Any] = {"kind": type(pipe), "parts": sorted(pipe.components)}
    for number, model in enumerate(experts(pipe)):
        for name, module in model.named_modules(remove_duplicate=False):
            hooks = [list(v) for k, v in vars(module).items() if k.endswith("_hooks")]
            children = [(key, id(child)) for key, child in module._modules.items()]
            found[f"{number}.{name}"] = (id(module), sorted(vars(module)), hooks, children)
            registry = getattr(module, "_diffusers_hook", None)
            found[f"{number}.{name} hooks"] = registry and sorted(registry.hooks)
    return found


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref]]:
    """Weak references to every tensor that was put into a cache."""
    references: list[weakref.ref] = []
    own_put = ResidualCache.put

    def put(self: ResidualCache, branch: Any, sigma: float, residual: Any) -> None:
        own_put(self, branch, sigma, residual)
        entries = [e for of_branch in self._entries.values() for e in of_branch]
        tensors = [*residual, *(packed.data for e in entries for packed in e.tensors)]
        references.extend(weakref.ref(tensor) for tensor in tensors)

    monkeypatch.setattr(ResidualCache, "put", put)
    yield references
    assert references, "nothing was kept, so nothing was tested"


def alive(references: list[weakref.ref]) -> int:
    """How many are left; without the garbage collector's help."""
    return len({id(tensor) for r in references if (tensor := r()) is not None})


def apply(pipe: DiffusionPipeline, tiny: Tiny, **settings: Any) -> Any:
    return magcache.apply(pipe, preset=PRESETS[tiny.name], **{**EAGER, **settings})


@pytest.mark.parametrize("tiny", FAMILIES)
def test_nothing_is_left_after_a_run(tiny: Tiny, kept: list[weakref.ref]) -> None:
    pipe = tiny.build()
    run(pipe, **tiny.inputs(pipe, steps=1))  # diffusers leaves hook registries of its own
    before = state(pipe)
    with apply(pipe, tiny) as applied:
        run(pipe, **tiny.inputs(pipe, steps=STEPS))
        assert alive(kept) == 0
    assert state(pipe) == before
    assert applied.report().bytes_held > 0  # the record stays, the residuals do not


@pytest.mark.parametrize("tiny", FAMILIES)
def test_nothing_is_left_after_an_exception(tiny: Tiny, kept: list[weakref.ref]) -> None:
    pipe = tiny.build()
    run(pipe, **tiny.inputs(pipe, steps=1))
    before = state(pipe)
    applied = apply(pipe, tiny)
    break_in_block(pipe, tiny, RuntimeError)
    assert alive(kept) == 0
    applied.remove()
    assert state(pipe) == before


@pytest.mark.parametrize("breaking", [break_in_callback, interrupt, break_in_scheduler])
@pytest.mark.parametrize("name", ["flux", "wan2.2_t2v"])
def test_residuals_are_freed_when_a_run_stops_between_evaluations(
    name: str, breaking: Any, kept: list[weakref.ref]
) -> None:
    pipe = TINY[name].build()
    applied = apply(pipe, TINY[name])
    breaking(pipe, TINY[name])
    assert alive(kept) == 0
    applied.remove()


@pytest.mark.parametrize("name", ["flux", "wan2.2_t2v", "framepack", "wan2.1_vace"])
def test_one_residual_a_branch_is_alive_at_most(name: str, kept: list[weakref.ref]) -> None:
    """Also across the change of experts and of sections."""
    tiny = TINY[name]
    pipe = tiny.build()
    most: list[int] = []

    def look(_: Any, __: int, ___: Any, ____: Any) -> dict:
        most.append(alive(kept))
        return {}

    with apply(pipe, tiny, max_skip=1):
        run(pipe, **tiny.inputs(pipe, steps=STEPS), callback_on_step_end=look)
    assert max(most) == 2
    assert most[-1] == 0


def test_a_calibration_keeps_no_residual(runs: list[Run]) -> None:
    tiny = TINY["flux"]
    pipe = tiny.build()
    with magcache.apply(pipe, calibrate=True):
        run(pipe, **tiny.inputs(pipe, steps=3))
        calibrator = runs[0].calibrator
        assert not calibrator._last


def test_wrapped_by_another_library_after_apply() -> None:
    """accelerate's offloading exchanges the forward; taking ours off must not take its off."""
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    class Counting(ModelHook):
        calls = 0

        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return args, kwargs

    tiny = TINY["flux"]
    pipe, theirs = tiny.build(), Counting()
    plain = run(pipe, **tiny.inputs(pipe, steps=STEPS))
    applied = apply(pipe, tiny)
    accelerated = run(pipe, **tiny.inputs(pipe, steps=STEPS))
    add_hook_to_module(pipe.transformer, theirs)
    assert torch.equal(run(pipe, **tiny.inputs(pipe, steps=STEPS)), accelerated)
    applied.remove()
    assert torch.equal(run(pipe, **tiny.inputs(pipe, steps=STEPS)), plain)
    assert theirs.calls == 2 * 2 * STEPS + 1  # one is the run's dry call
    with apply(pipe, tiny):
        assert torch.equal(run(pipe, **tiny.inputs(pipe, steps=STEPS)), accelerated)
    remove_hook_from_module(pipe.transformer)
    assert torch.equal(run(pipe, **tiny.inputs(pipe, steps=STEPS)), plain)
