"""Several applications: on one pipeline, on several, in several threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import diffusers as dfs
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

import magcache
from harness import EAGER, PRESETS, reference, sample
from tiny import TINY, Tiny, run

FLUX, WAN = TINY["flux"], TINY["wan2.1_t2v"]
OTHER = {**EAGER, "max_skip": 1}


def apply(pipe: DiffusionPipeline, tiny: Tiny, **settings: Any) -> Any:
    return magcache.apply(pipe, preset=PRESETS[tiny.name], **{**EAGER, **settings})


def alone(tiny: Tiny, **settings: Any) -> Tensor:
    pipe = tiny.build()
    with apply(pipe, tiny, **settings):
        return run(pipe, **tiny.inputs(pipe))


def sharing(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """A second pipeline around the same transformer."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    other = type(pipe)(**{**pipe.components, "scheduler": scheduler})
    other.set_progress_bar_config(disable=True)
    return other


def test_a_second_apply_replaces_the_first() -> None:
    pipe = FLUX.build()
    first = apply(pipe, FLUX)
    second = apply(pipe, FLUX, max_skip=1)
    assert torch.equal(run(pipe, **FLUX.inputs(pipe)), alone(FLUX, max_skip=1))
    assert first.report().evaluations == 0
    first.remove()  # has been replaced: does nothing
    latents, schedule = sample(pipe, FLUX)
    assert "." in schedule and torch.equal(latents, alone(FLUX, max_skip=1))
    second.remove()
    assert torch.equal(run(pipe, **FLUX.inputs(pipe)), reference(FLUX).latents)
    assert type(pipe) is dfs.FluxPipeline


def test_with_inside_with() -> None:
    pipe = FLUX.build()
    with apply(pipe, FLUX):
        with apply(pipe, FLUX, max_skip=1) as inner:
            run(pipe, **FLUX.inputs(pipe))
        assert inner.report().skipped > 0
        assert torch.equal(run(pipe, **FLUX.inputs(pipe)), reference(FLUX).latents)
    assert type(pipe) is dfs.FluxPipeline


def test_on_the_transformer_after_on_the_pipeline() -> None:
    pipe = FLUX.build()
    first = apply(pipe, FLUX)
    with apply(pipe.transformer, FLUX, max_skip=1, scheduler=pipe.scheduler) as second:
        assert torch.equal(run(pipe, **FLUX.inputs(pipe)), alone(FLUX, max_skip=1))
    assert (first.report().evaluations, second.report().evaluations) == (0, 10)
    with apply(pipe, FLUX):
        assert torch.equal(run(pipe, **FLUX.inputs(pipe)), alone(FLUX))


def test_remove_without_apply_does_nothing() -> None:
    pipe = FLUX.build()
    before = sorted(vars(pipe.transformer))
    magcache.remove(pipe)
    magcache.remove(pipe.transformer)
    assert sorted(vars(pipe.transformer)) == before
    applied = apply(pipe, FLUX)
    magcache.remove(pipe)
    applied.remove()
    assert sorted(vars(pipe.transformer)) == before and type(pipe) is dfs.FluxPipeline


def test_one_pipeline_runs_in_the_middle_of_another() -> None:
    outer, inner = FLUX.build(), WAN.build()
    results: list[Tensor] = []

    def run_inner(_: Any, step: int, __: Any, ___: Any) -> dict:
        if step in (2, 3, 4):
            results.append(run(inner, **WAN.inputs(inner)))
        return {}

    with apply(outer, FLUX), apply(inner, WAN):
        latents = run(outer, **FLUX.inputs(outer), callback_on_step_end=run_inner)
    assert torch.equal(latents, alone(FLUX))
    assert all(torch.equal(result, alone(WAN)) for result in results)


def test_a_pipeline_that_shares_the_transformer_is_not_accelerated() -> None:
    pipe = FLUX.build()
    other = sharing(pipe)
    applied = apply(pipe, FLUX)
    for _ in range(2):  # also after the accelerated one, whose scheduler then stands at its end
        latents, schedule = sample(other, FLUX)
        assert schedule == "#" * 10 and torch.equal(latents, reference(FLUX).latents)
        assert torch.equal(run(pipe, **FLUX.inputs(pipe)), alone(FLUX))
    assert applied.report().evaluations == 20
    second = apply(other, FLUX, max_skip=1)
    applied.remove()
    assert torch.equal(run(other, **FLUX.inputs(other)), alone(FLUX, max_skip=1))
    second.remove()
    assert "forward" not in vars(pipe.transformer)


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """Threads take turns every ten microseconds."""
    own = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(own)


def at_once(*jobs: Callable[[], list[Tensor]]) -> list[list[Tensor]]:
    """The results of jobs that run in a thread each and start together."""
    results: list[list[Tensor]] = [[] for _ in jobs]
    start = threading.Barrier(len(jobs))

    def work(number: int, job: Callable[[], list[Tensor]]) -> None:
        start.wait()
        results[number] = job()

    threads = [threading.Thread(target=work, args=item) for item in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def thrice(pipe: DiffusionPipeline, tiny: Tiny) -> Callable[[], list[Tensor]]:
    return lambda: [run(pipe, **tiny.inputs(pipe)) for _ in range(3)]


def assert_all_equal(latents: list[Tensor], expected: Tensor) -> None:
    assert len(latents) == 3
    assert all(torch.equal(result, expected) for result in latents)


@pytest.mark.usefixtures("eager_switches")
def test_two_threads_each_with_a_pipeline_of_its_own() -> None:
    first, second = FLUX.build(), FLUX.build()
    with apply(first, FLUX), apply(second, FLUX, **OTHER):
        results = at_once(thrice(first, FLUX), thrice(second, FLUX))
    assert_all_equal(results[0], alone(FLUX))
    assert_all_equal(results[1], alone(FLUX, **OTHER))


@pytest.mark.usefixtures("eager_switches")
@pytest.mark.parametrize("both", [False, True], ids=["one accelerated", "both accelerated"])
@pytest.mark.parametrize("name", ["flux", "wan2.1_t2v"])
def test_two_threads_share_a_transformer(name: str, both: bool) -> None:
    tiny = TINY[name]
    first = tiny.build()
    second = sharing(first)
    applied = [apply(first, tiny)]
    if both:
        applied.append(apply(second, tiny, **OTHER))
    results = at_once(thrice(first, tiny), thrice(second, tiny))
    assert_all_equal(results[0], alone(tiny))
    assert_all_equal(results[1], alone(tiny, **OTHER) if both else reference(tiny).latents)
    for one in applied:
        assert one.report().evaluations == 30
        one.remove()
    assert "forward" not in vars(first.transformer)


def test_removing_one_of_two_experts_takes_both_off() -> None:
    tiny = TINY["wan2.2_t2v"]
    pipe = tiny.build()
    apply(pipe, tiny)
    magcache.remove(pipe.transformer_2)
    assert torch.equal(run(pipe, **tiny.inputs(pipe)), reference(tiny).latents)
    assert all("forward" not in vars(m) for m in (pipe.transformer, pipe.transformer_2))
