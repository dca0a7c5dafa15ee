"""After an interruption or an error everything is as before, and nothing is kept in memory."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import pytest
import torch
from tiny_models import TINY, sample
from watch import STEPS, cached, difference

from magcache.run import ResidualCache

WAN = TINY["wan_t2v"]


def interrupt() -> None:
    """What the Cancel button does, and what ComfyUI does about it at its next progress."""
    comfy.model_management.interrupt_current_processing()
    comfy.model_management.throw_exception_if_processing_interrupted()


def fail() -> None:
    raise ZeroDivisionError("a sampler's own error")


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("Allocation on device")


ERRORS: dict[Callable[[], None], type[BaseException]] = {
    interrupt: comfy.model_management.InterruptProcessingException,
    fail: ZeroDivisionError,
    run_out_of_memory: torch.OutOfMemoryError,
}
PLACES = {
    "the callback of a step": ("callback", 3),
    "a block of a computed evaluation": ("block", 5),
    "the dry call": ("head", 2),
    "the head of a skipped evaluation": ("head", 3),
    "the first block of the run": ("block", 1),
}


def state_of(model: Any) -> list[Any]:
    """Everything of a model that a run could leave something on."""
    network = model.model.diffusion_model
    modules = [
        (id(module), sorted(vars(module)), [*map(id, module._modules.values())])
        for module in network.modules()
    ]
    hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in network.modules()]
    options = str(model.model_options)
    return [modules, hooks, sorted(vars(model.model)), str(model.wrappers), options]


@contextmanager
def raised_at(model: Any, place: str, count: int, error: Callable[[], None]) -> Iterator[Any]:
    """Raises at the so manieth call of a place; yields the callback to sample with."""
    calls = 0

    def called(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            error()

    network = model.model.diffusion_model
    modules = {"block": list(network.blocks), "head": [network.head]}.get(place, [])
    handles = [module.register_forward_pre_hook(called) for module in modules]
    try:
        yield called if place == "callback" else None
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture
def residuals(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref]:
    """Every residual that is kept from here on."""
    kept: list[weakref.ref] = []
    put = ResidualCache.put

    def watched(cache: ResidualCache, branch: Any, sigma: float, residual: Any) -> None:
        kept.extend(map(weakref.ref, residual))
        put(cache, branch, sigma, residual)

    monkeypatch.setattr(ResidualCache, "put", watched)
    return kept


def alive(references: list[weakref.ref], collect: bool = True) -> int:
    if collect:
        gc.collect()
    return sum(reference() is not None for reference in references)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
@pytest.mark.parametrize("place", PLACES)
def test_after_an_error_all_is_as_before(
    place: str, error: Callable[[], None], residuals: list[weakref.ref]
) -> None:
    if place in ("the dry call", "the head of a skipped evaluation") and error is fail:
        pytest.skip("there it is taken for a model that cannot do without its blocks")
    model = WAN.build()
    uncached, fresh = sample(model, WAN, STEPS), sample(cached(model, WAN).model, WAN, STEPS)
    watched = cached(model, WAN)
    before = state_of(watched.model)
    residuals.clear()
    with (
        raised_at(model, *PLACES[place], error) as callback,
        pytest.raises(ERRORS[error]) as caught,
    ):
        sample(watched.model, WAN, STEPS, callback=callback)
    del caught
    assert state_of(watched.model) == before
    assert alive(residuals) == 0
    assert torch.equal(sample(watched.model, WAN, STEPS), fresh)
    assert torch.equal(sample(model, WAN, STEPS), uncached)
    assert len(watched.samplings) == 1  # the broken one is not reported


def test_an_error_in_the_dry_call_means_an_uncached_run() -> None:
    model = WAN.build()
    uncached, watched = sample(model, WAN, STEPS), cached(model, WAN)
    with raised_at(model, "head", 2, fail):
        assert torch.equal(sample(watched.model, WAN, STEPS), uncached)
    assert watched.run.skipped == 0
    assert "ZeroDivisionError" in watched.run.warnings[0]


def test_residuals_live_during_a_run_and_not_after_it(residuals: list[weakref.ref]) -> None:
    seen = []
    watched = cached(WAN.build(), WAN)
    sample(watched.model, WAN, STEPS, callback=lambda *_: seen.append(alive(residuals, False)))
    assert max(seen) == 1  # one call, one branch key
    assert alive(residuals) == 0


def test_two_threads_with_clones_of_one_model_share_nothing() -> None:
    """They wait for each other at the end: ComfyUI cannot clean up a model that still samples."""
    model = WAN.build()
    samplings = {cached(model, WAN, max_skip=3): 1, cached(model, WAN, threshold=0.02): 2}
    alone = {each: sample(each.model, WAN, STEPS, seed=seed) for each, seed in samplings.items()}
    together: dict[Any, torch.Tensor] = {}
    both = threading.Barrier(2, timeout=60)

    def work(each: Any, seed: int) -> None:
        def wait(step: int, *_: Any) -> None:
            if step in (0, STEPS - 1):
                both.wait()

        together[each] = sample(each.model, WAN, STEPS, seed=seed, callback=wait)

    threads = [threading.Thread(target=work, args=item) for item in samplings.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each, output in alone.items():
        assert torch.equal(together[each], output)
        first, second = (sampling.report().schedule for sampling in each.samplings)
        assert first == second
    many, few = samplings
    assert many.run.skipped > few.run.skipped


def test_in_inference_mode_as_the_server_runs_nodes() -> None:
    model = WAN.build()
    with torch.inference_mode():
        uncached = sample(model, WAN, STEPS)
        watched = cached(model, WAN)
        assert 0 < difference(sample(watched.model, WAN, STEPS), uncached) < 0.2
    assert torch.equal(sample(model, WAN, STEPS), uncached)
