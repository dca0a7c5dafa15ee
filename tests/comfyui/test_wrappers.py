"""MagCache among other packs' wrappers and guiders, and what it writes to the log."""

import logging
import re
from typing import Any

import comfy.model_patcher
import comfy.samplers
import comfy.utils
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Guider_Basic, Guider_DualCFG
from tiny_models import TINY, sample, sample_at
from torch import nn
from watch import STEPS, Cached, cached, difference, settings_of

from magcache.hosts.comfyui.nodes.magcache import MagCache
from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed
from magcache.hosts.comfyui.wrappers import STATE

WAN = TINY["wan_t2v"]


class Swapped(nn.Module):
    """Stands in for a block, as a compiled one does."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.block(*args, **kwargs)


def swapping(block: Swapped, key: str) -> Any:
    """An APPLY_MODEL wrapper that puts another block in place for one call."""

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        comfy.utils.set_attr(executor.class_obj, key, block)
        try:
            return executor(*args, **kwargs)
        finally:
            comfy.utils.set_attr(executor.class_obj, key, block.block)

    return wrapper


@pytest.mark.parametrize("first", ["MagCache", "other"])
def test_a_pack_that_exchanges_blocks_for_a_call_works_in_either_order(first: str) -> None:
    model, key = WAN.build(), "diffusion_model.blocks.1"
    block = Swapped(model.model.diffusion_model.blocks[1])
    expected = sample(cached(model, WAN).model, WAN, STEPS)
    if first == "other":
        model = model.clone()
        model.add_wrapper_with_key("apply_model", "other", swapping(block, key))
        watched = cached(model, WAN)
    else:
        watched = cached(model, WAN)
        watched.model.add_wrapper_with_key("apply_model", "other", swapping(block, key))
    assert torch.equal(sample(watched.model, WAN, STEPS), expected)
    assert block.calls == STEPS - watched.run.skipped
    assert model.model.diffusion_model.blocks[1] is block.block


def test_other_packs_wrappers_are_all_called_as_often_and_in_their_order() -> None:
    model, calls = WAN.build(), []

    def noting(name: str) -> Any:
        def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return executor(*args, **kwargs)

        return wrapper

    kinds = ("outer_sample", "predict_noise", "apply_model", "diffusion_model", "calc_cond_batch")
    for kind in kinds:
        model.add_wrapper_with_key(kind, "a", noting(f"{kind} a"))
    with_cache = cached(model, WAN).model
    for kind in kinds:
        with_cache.add_wrapper_with_key(kind, "b", noting(f"{kind} b"))
        model.add_wrapper_with_key(kind, "b", noting(f"{kind} b"))
    sample(model, WAN, STEPS)
    without, calls[:] = list(calls), []
    sample(with_cache, WAN, STEPS)
    dry = [f"diffusion_model {name}" for name in "ab"]  # one more call of the network, once
    at = without.index(dry[1]) + 1
    assert calls == without[:at] + dry + without[at:]


@pytest.mark.parametrize("first", ["MagCache", "other"])
def test_a_pack_that_replaces_the_options_of_a_sampling(first: str) -> None:
    """As EasyCache and many others do; they find their own options again afterwards."""
    found = []

    def replacing(executor: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        kept = guider.model_options
        own = guider.model_options = comfy.model_patcher.create_model_options_clone(kept)
        try:
            return executor(*args, **kwargs)
        finally:
            found.append(guider.model_options is own)
            guider.model_options = kept

    model = WAN.build()
    expected = sample(cached(model, WAN).model, WAN, STEPS)
    if first == "other":
        model = model.clone()
        model.add_wrapper_with_key("outer_sample", "other", replacing)
    watched = cached(model, WAN)
    if first == "MagCache":
        watched.model.add_wrapper_with_key("outer_sample", "other", replacing)
    assert torch.equal(sample(watched.model, WAN, STEPS), expected)
    assert found == [True] and watched.run.skipped


class BareGuider(comfy.samplers.CFGGuider):
    """Samples with options of its own, which know nothing of the nodes'."""

    def set_conds(self, positive: Any, negative: Any) -> None:
        super().set_conds(positive, negative)
        self.model_options = {"transformer_options": {}}


def guided(guider: Any, *conds: Any, cfg: float | tuple[float, ...] = 3.0) -> torch.Tensor:
    """Samples with a guider, as SamplerCustomAdvanced does."""
    guider.set_conds(*conds)
    guider.set_cfg(*(cfg if isinstance(cfg, tuple) else (cfg,)))
    scheduler = guider.model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(scheduler, "simple", STEPS)
    noise = torch.randn(WAN.shape, generator=torch.Generator().manual_seed(1))
    euler = comfy.samplers.sampler_object("euler")
    return guider.sample(noise, WAN.latent(), euler, sigmas, disable_pbar=True, seed=1)


@pytest.mark.parametrize("kind", ["bare", "basic", "dual", "nested dual"])
def test_other_guiders(kind: str) -> None:
    positive, negative = WAN.conds()
    middle = [[positive[0][0].flip(1), {}]]

    def run(model: Any) -> torch.Tensor:
        if kind == "bare":
            return guided(BareGuider(model), positive, negative)
        if kind == "basic":
            return guided(Guider_Basic(model), positive, cfg=1.0)
        cfg = (2.0, 3.0, kind.startswith("nested"))
        return guided(Guider_DualCFG(model), positive, middle, negative, cfg=cfg)

    model = WAN.build()
    uncached, off, on = run(model), cached(model, WAN, threshold=0), cached(model, WAN)
    assert torch.equal(run(off.model), uncached)
    output = run(on.model)
    assert on.run.skipped == 5
    assert 0 < difference(output, uncached) < 0.5
    assert len(on.run.evaluations[0].computed) == 1


def test_sigmas_that_rise_as_in_unsampling() -> None:
    sigmas = torch.linspace(0.01, 0.9, STEPS)
    model = WAN.build()
    watched = cached(model, WAN)
    output, uncached = (sample_at(each, WAN, sigmas) for each in (watched.model, model))
    assert len(watched.run.evaluations) == STEPS - 1
    assert difference(output, uncached) < 0.5


def test_nothing_of_a_run_stays_in_the_options_of_the_model() -> None:
    watched = cached(WAN.build(), WAN)
    sample(watched.model, WAN)
    assert STATE not in watched.model.model_options["transformer_options"]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "magcache"]


def logged(caplog: pytest.LogCaptureFixture, model: Any, steps: int) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "magcache"):
        sample(model, WAN, steps)
    return lines(caplog)


def test_one_line_a_run_says_what_was_skipped(caplog: pytest.LogCaptureFixture) -> None:
    model = MagCache().apply(WAN.build(), "wan2.1_t2v_14B", 0.24, 0.2, 6, 0, -1)[0]
    (line,) = logged(caplog, model, 50)
    expected = (
        r"MagCache: (\d+) of 50 evaluations skipped, (\d+\.\d\d)x "
        r"\(wan2\.1_t2v_14B, threshold 0\.24, K 6\)"
    )
    found = re.fullmatch(expected, line)
    assert found, line
    assert 25 <= int(found[1]) <= 40 and float(found[2]) > 1


def test_the_line_says_why_it_is_less_than_was_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = WAN.build()
    fast = MagCacheTargetSpeed().apply(model, 4.0, "automatic")[0]
    (line,) = logged(caplog, fast, 9)
    assert re.fullmatch(
        r"MagCache: 3 of 9 evaluations skipped, \d\.\d\dx \(forecast, .*\); a speed-up of 4 "
        r"computes fewer than 6 evaluations, no better than as many plain steps; the best is 1\.50",
        line,
    ), line
    assert logged(caplog, fast, 3) == ["MagCache: nothing to gain: 3 steps"]
    by_rule = MagCache().apply(model, "wan2.1_t2v_14B", 0.24, 0.2, 6, 0, -1)[0]
    assert logged(caplog, by_rule, 30)[0].endswith("(wan2.1_t2v_14B, threshold 0.24, K 6)")


def test_a_warning_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A note of the report is in the log only if asked for, a warning always and once."""
    model = WAN.build()
    front = MagCache().apply(model, "auto", 0.24, 0.2, 6, 0, -1)[0]
    for verbose in (False, True):
        twice = MagCache().apply(front, "auto", 0.24, 0.2, 6, 0, -1, verbose=verbose)[0]
        told = [line for line in logged(caplog, twice, 20) if ": evaluation " not in line]
        assert sum("has no effect: remove one" in line for line in told) == 1
        assert len(told) == 2


def test_verbose_says_why_for_each_evaluation(caplog: pytest.LogCaptureFixture) -> None:
    watched: Cached = cached(WAN.build(), WAN, verbose=True)
    assert settings_of(watched.model).verbose
    with caplog.at_level(logging.INFO, "magcache"):
        sample(watched.model, WAN, STEPS)
    told = [line for line in lines(caplog) if ": evaluation " in line]
    assert len(told) == STEPS
    assert told[0] == "MagCache: evaluation 1, sigma 1.0000: first evaluation"
    assert re.fullmatch(r"MagCache: evaluation 2, sigma 0\.9\d+: skipped", told[1])
