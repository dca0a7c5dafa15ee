"""Together with group offloading, layerwise casting and torch.compile."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.hooks.group_offloading import ModuleGroup
from torch import Tensor, nn

import magcache
from harness import EAGER, FAMILIES, PRESETS, distance, sample
from tiny import TINY, Tiny, experts, run

STEPS = 4
SHORT = {"steps": STEPS, "cfg": False}
CPU = torch.device("cpu")
Change = Callable[[nn.Module], None]


def casting(model: nn.Module) -> None:
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def offloading(model: nn.Module, kind: str = "block_level") -> None:
    model.enable_group_offload(CPU, CPU, offload_type=kind, num_blocks_per_group=1)


offloading_of_leaves = functools.partial(offloading, kind="leaf_level")
CASES = [
    *((tiny, casting, 0.05) for tiny in TINY.values()),
    *((tiny, offloading, 0) for tiny in TINY.values()),
    *((TINY[n], offloading_of_leaves, 0) for n in ("flux", "hunyuan_video", "wan2.1_vace")),
]
IDS = [f"{tiny.name}, {getattr(change, '__name__', 'leaves')}" for tiny, change, _ in CASES]


def change_all(pipe: DiffusionPipeline, change: Change) -> DiffusionPipeline:
    for model in experts(pipe):
        change(model)
    return pipe


def accelerated(pipe: DiffusionPipeline, tiny: Tiny, **settings: Any) -> tuple[Tensor, str]:
    with magcache.apply(pipe, preset=PRESETS[tiny.name], **{**EAGER, **settings}):
        return sample(pipe, tiny, **SHORT)


@pytest.mark.parametrize(("tiny", "change", "tolerance"), CASES, ids=IDS)
def test_switched_on_before_or_after_apply(tiny: Tiny, change: Change, tolerance: float) -> None:
    plain, schedule = accelerated(tiny.build(), tiny)
    pipe = change_all(tiny.build(), change)
    own, _ = sample(pipe, tiny, **SHORT)
    assert torch.equal(accelerated(pipe, tiny, retention=1.0)[0], own)
    before, schedule_before = accelerated(pipe, tiny)
    pipe = tiny.build()
    applied = magcache.apply(pipe, preset=PRESETS[tiny.name], **EAGER)
    after, schedule_after = sample(change_all(pipe, change), tiny, **SHORT)
    assert schedule == schedule_before == schedule_after
    assert schedule.count(".") >= 2
    assert torch.equal(before, after)
    assert distance(before, plain) <= tolerance
    applied.remove()
    assert torch.equal(sample(pipe, tiny, **SHORT)[0], own)


@pytest.fixture
def onloaded(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules of the groups that were brought to the compute device."""
    modules: list[nn.Module] = []
    own_onload = ModuleGroup.onload_

    def onload(self: ModuleGroup) -> None:
        modules.extend(self.modules)
        own_onload(self)

    monkeypatch.setattr(ModuleGroup, "onload_", onload)
    return modules


@pytest.mark.parametrize("change", [offloading, offloading_of_leaves], ids=["blocks", "leaves"])
@pytest.mark.parametrize("name", ["flux", "wan2.1_vace", "wan2.2_t2v"])
def test_a_skipped_evaluation_onloads_no_block(
    name: str, change: Change, onloaded: list[nn.Module]
) -> None:
    tiny = TINY[name]
    pipe = change_all(tiny.build(), change)
    inside = {m for model in experts(pipe) for b in tiny.blocks(model) for m in b.modules()}
    of_evaluation: list[bool] = []

    def look(_: Any, __: int, ___: Any, ____: Any) -> dict:
        of_evaluation.append(bool(inside.intersection(onloaded)))
        onloaded.clear()
        return {}

    with magcache.apply(pipe, preset=PRESETS[name], **EAGER) as applied:
        run(pipe, **tiny.inputs(pipe, steps=STEPS), callback_on_step_end=look)
    seen = "".join("#" if touched else "." for touched in of_evaluation)
    assert seen == applied.report().schedule.replace(" ", "")
    assert "." in seen


def compiling(model: nn.Module, tiny: Tiny, backend: Any = "eager") -> list[nn.Module]:
    """Compiles every block by itself; returns a list that grows by each block that is called."""
    called: list[nn.Module] = []
    for block in tiny.blocks(model):
        block.compile(backend=backend, fullgraph=True)  # as compile_repeated_blocks does

        def call(*args: Any, of: Any = block._compiled_call_impl, block: Any = block, **kw: Any):
            called.append(block)
            return of(*args, **kw)

        block._compiled_call_impl = call
    return called


@pytest.mark.parametrize("tiny", FAMILIES)
def test_compiled_blocks(tiny: Tiny) -> None:
    torch._dynamo.reset()
    plain, schedule = accelerated(tiny.build(), tiny)
    pipe = tiny.build()
    with magcache.apply(pipe, preset=PRESETS[tiny.name], **EAGER) as applied:
        called = [compiling(model, tiny) for model in experts(pipe)]
        after = run(pipe, **tiny.inputs(pipe, **SHORT))
    assert applied.report().schedule.replace(" ", "") == schedule
    depth = len(tiny.blocks(pipe.transformer))
    assert sum(map(len, called)) == depth * schedule.count("#")
    with magcache.apply(pipe, preset=PRESETS[tiny.name], **EAGER):
        before = run(pipe, **tiny.inputs(pipe, **SHORT))
    assert torch.equal(before, after) and torch.equal(before, plain)
    own = run(pipe, **tiny.inputs(pipe, **SHORT))
    with magcache.apply(pipe, preset=PRESETS[tiny.name], retention=1.0):
        assert torch.equal(run(pipe, **tiny.inputs(pipe, **SHORT)), own)


def test_compile_repeated_blocks_makes_no_graph_more() -> None:
    """Taps stay out of the blocks' graphs, and nothing is compiled again."""
    tiny = TINY["wan2.1_t2v"]
    graphs: list[int] = []
    for settings in (None, {"retention": 1.0}, {}):
        torch._dynamo.reset()
        counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
        pipe = tiny.build()
        pipe.transformer.compile_repeated_blocks(backend=counter, fullgraph=True)
        if settings is not None:
            magcache.apply(pipe, preset=PRESETS[tiny.name], **{**EAGER, **settings})
        run(pipe, **tiny.inputs(pipe, **SHORT))
        graphs.append(counter.frame_count)
    assert graphs == [graphs[0]] * 3


def compile_in_place(pipe: DiffusionPipeline) -> None:
    pipe.transformer.compile(backend="eager", fullgraph=True)


def compile_wrapped(pipe: DiffusionPipeline) -> None:
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")


@pytest.mark.parametrize("when", ["before", "after", "after a run"])
@pytest.mark.parametrize("compile_whole", [compile_in_place, compile_wrapped])
def test_compiled_as_a_whole_runs_uncached_and_says_so(
    compile_whole: Callable, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch._dynamo.reset()
    tiny = TINY["wan2.1_t2v"]
    pipe = tiny.build()
    del pipe.transformer.blocks[1:]  # for speed
    own = run(pipe, **tiny.inputs(pipe, **SHORT))
    if when == "before":
        compile_whole(pipe)
    applied = magcache.apply(pipe, preset=PRESETS[tiny.name], **EAGER)
    if when == "after a run":
        run(pipe, **tiny.inputs(pipe, **SHORT))
        applied.reset()
    if when != "before":
        compile_whole(pipe)
    for _ in range(2):
        assert torch.equal(run(pipe, **tiny.inputs(pipe, **SHORT)), own)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "WanTransformer3DModel is compiled as a whole" in warnings[0]
    assert "uncached" in str(applied.report()) and applied.report().evaluations == 0
    applied.remove()
    assert torch.equal(run(pipe, **tiny.inputs(pipe, **SHORT)), own)
