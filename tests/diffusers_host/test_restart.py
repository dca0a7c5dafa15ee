"""A run after anything else is as the first run on a new pipeline."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

import magcache
from harness import EAGER, FAMILIES, PRESETS, sample
from tiny import TINY, Tiny, experts, run

STEPS = 8
CALLBACK_FAMILIES = [p for p in FAMILIES if p.id != "hunyuan_video1.5"]  # takes no callback


class Broken(Exception):
    pass


def apply(pipe: DiffusionPipeline, tiny: Tiny) -> Any:
    return magcache.apply(pipe, preset=PRESETS[tiny.name], **EAGER)


@cache
def fresh(name: str) -> tuple[Tensor, str]:
    pipe = TINY[name].build()
    with apply(pipe, TINY[name]):
        return sample(pipe, TINY[name], steps=STEPS)


def assert_as_fresh(pipe: DiffusionPipeline, tiny: Tiny) -> None:
    latents, schedule = sample(pipe, tiny, steps=STEPS)
    expected, expected_schedule = fresh(tiny.name)
    assert schedule == expected_schedule
    assert "." in schedule and torch.equal(latents, expected)


def break_in_block(pipe: DiffusionPipeline, tiny: Tiny, error: type[BaseException]) -> None:
    """Fails in a block, in the middle of the second branch of the last computed evaluation."""
    calls = 0
    due = 2 * fresh(tiny.name)[1].count("#")

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == due:
            raise error("in a block")

    handles = [tiny.blocks(model)[-1].register_forward_pre_hook(fail) for model in experts(pipe)]
    with pytest.raises(error, match="in a block"):
        run(pipe, **tiny.inputs(pipe, steps=STEPS))
    for handle in handles:
        handle.remove()


def break_in_callback(pipe: DiffusionPipeline, tiny: Tiny) -> None:
    def fail(_: Any, step: int, __: Any, ___: Any) -> dict:
        if step == 3:
            raise Broken
        return {}

    with pytest.raises(Broken):
        run(pipe, **tiny.inputs(pipe, steps=STEPS), callback_on_step_end=fail)


def interrupt(pipe: DiffusionPipeline, tiny: Tiny) -> None:
    def stop(pipe: Any, step: int, _: Any, __: Any) -> dict:
        pipe._interrupt = step == 3
        return {}

    run(pipe, **tiny.inputs(pipe, steps=STEPS), callback_on_step_end=stop)


def break_in_scheduler(pipe: DiffusionPipeline, tiny: Tiny) -> None:
    own_step, steps = pipe.scheduler.step, iter(range(STEPS))

    def step(*args: Any, **kwargs: Any) -> Any:
        if next(steps) == 3:
            raise Broken
        return own_step(*args, **kwargs)

    pipe.scheduler.step = step
    with pytest.raises(Broken):
        run(pipe, **tiny.inputs(pipe, steps=STEPS))
    del pipe.scheduler.step


@pytest.mark.parametrize("tiny", FAMILIES)
def test_after_an_exception_in_a_block(tiny: Tiny) -> None:
    pipe = tiny.build()
    with apply(pipe, tiny):
        break_in_block(pipe, tiny, Broken)
        assert_as_fresh(pipe, tiny)


@pytest.mark.parametrize("tiny", CALLBACK_FAMILIES)
def test_after_an_exception_in_the_callback(tiny: Tiny) -> None:
    pipe = tiny.build()
    with apply(pipe, tiny):
        break_in_callback(pipe, tiny)
        assert_as_fresh(pipe, tiny)


@pytest.mark.parametrize("tiny", FAMILIES)
def test_after_runs_of_another_size_batch_and_number_of_steps(tiny: Tiny) -> None:
    pipe = tiny.build()
    with apply(pipe, tiny) as applied:
        run(pipe, **tiny.inputs(pipe, steps=4, size=(96, 64)))
        assert_as_fresh(pipe, tiny)
        if tiny.max_batch == 1:
            with pytest.raises(ValueError, match="not yet supported"):
                run(pipe, **tiny.inputs(pipe, steps=4, batch=2))
        else:
            run(pipe, **tiny.inputs(pipe, steps=4, batch=2))
        assert_as_fresh(pipe, tiny)
        run(pipe, **tiny.inputs(pipe, steps=5))
        applied.reset()
        assert_as_fresh(pipe, tiny)
        assert applied.report().schedule.replace(" ", "") == fresh(tiny.name)[1]


@pytest.mark.parametrize("breaking", [break_in_callback, interrupt, break_in_scheduler])
@pytest.mark.parametrize("name", ["flux", "wan2.2_t2v", "framepack"])
def test_after_a_run_that_stopped_between_two_evaluations(
    name: str, breaking: Callable[[DiffusionPipeline, Tiny], None]
) -> None:
    tiny = TINY[name]
    pipe = tiny.build()
    apply(pipe, tiny)
    breaking(pipe, tiny)
    assert_as_fresh(pipe, tiny)  # applied once
    breaking(pipe, tiny)
    apply(pipe, tiny)
    assert_as_fresh(pipe, tiny)  # applied anew
    breaking(pipe, tiny)
    magcache.remove(pipe)
    apply(pipe, tiny)
    assert_as_fresh(pipe, tiny)  # removed and applied


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
def test_after_running_out_of_memory_and_an_interrupt(error: type[BaseException]) -> None:
    tiny = TINY["wan2.1_vace"]
    pipe = tiny.build()
    with apply(pipe, tiny):
        break_in_block(pipe, tiny, error)
        assert_as_fresh(pipe, tiny)


def test_after_an_exception_while_skipping() -> None:
    tiny = TINY["flux"]
    pipe = tiny.build()
    calls = iter(range(100))

    def fail(*_: Any) -> None:
        if next(calls) == 2 * fresh("flux")[1].index("."):
            raise Broken

    with apply(pipe, tiny):
        handle = pipe.transformer.proj_out.register_forward_pre_hook(fail)
        with pytest.raises(Broken):
            run(pipe, **tiny.inputs(pipe, steps=STEPS))
        handle.remove()
        assert_as_fresh(pipe, tiny)


def test_another_scheduler_and_other_guidance_between_two_runs() -> None:
    tiny = TINY["wan2.1_t2v"]
    pipe = tiny.build()
    own = pipe.scheduler
    with apply(pipe, tiny):
        run(pipe, **tiny.inputs(pipe, steps=STEPS, cfg=False))
        assert_as_fresh(pipe, tiny)
        pipe.scheduler = type(own).from_config(own.config, flow_shift=9.0)
        run(pipe, **tiny.inputs(pipe, steps=STEPS))
        pipe.scheduler = own
        assert_as_fresh(pipe, tiny)


def test_the_transformer_is_exchanged() -> None:
    tiny = TINY["flux"]
    pipe, other = tiny.build(), tiny.build()
    apply(pipe, tiny)
    pipe.transformer = other.transformer
    applied = apply(pipe, tiny)
    assert_as_fresh(pipe, tiny)
    assert applied.report().warnings == [
        "8 steps: too few for the rule, so the difference is visible"
    ]
