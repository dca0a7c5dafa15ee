"""What the cache may rely on in each diffusers pipeline, checked on the tiny ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tiny import (
    SCHEDULERS,
    TINY,
    UNSUPPORTED,
    Tiny,
    experts,
    run,
    step_sigma,
    watch_calls,
    with_scheduler,
)

FAMILIES = [pytest.param(tiny, id=name) for name, tiny in TINY.items()]
PAIRS = [(name, scheduler) for name in TINY for scheduler in SCHEDULERS]


@pytest.mark.parametrize("cfg", [True, False], ids=["cfg", "no_cfg"])
@pytest.mark.parametrize("tiny", FAMILIES)
def test_transformer_calls_per_scheduler_step(tiny: Tiny, cfg: bool) -> None:
    pipe = tiny.build()
    calls: list[nn.Module] = []
    with watch_calls(pipe, calls.append):
        latents = run(pipe, **tiny.inputs(pipe, steps=4, cfg=cfg))
    assert latents.isfinite().all()
    assert len(calls) == 4 * tiny.calls_per_evaluation[cfg]


@pytest.mark.parametrize("tiny", FAMILIES)
def test_two_builds_agree_and_leave_the_global_seed_alone(tiny: Tiny) -> None:
    state = torch.get_rng_state()
    first, second = (
        run(pipe, **tiny.inputs(pipe, steps=2)) for pipe in (tiny.build(), tiny.build())
    )
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("tiny", FAMILIES)
def test_size_sets_the_number_of_latents(tiny: Tiny) -> None:
    pipe = tiny.build()
    square, tall = (run(pipe, **tiny.inputs(pipe, steps=1, size=(h, 64))) for h in (64, 96))
    assert tall.numel() == square.numel() * 96 // 64


@pytest.mark.parametrize("tiny", FAMILIES)
def test_batch_of_two(tiny: Tiny) -> None:
    pipe = tiny.build()
    inputs = tiny.inputs(pipe, steps=1, batch=2)
    if tiny.max_batch == 1:
        with pytest.raises(ValueError, match="more than one video is not yet supported"):
            run(pipe, **inputs)
    else:
        assert len(run(pipe, **inputs)) == 2


@pytest.mark.parametrize("tiny", FAMILIES)
def test_blocks_run_once_per_call_in_the_listed_order(tiny: Tiny) -> None:
    pipe = tiny.build()
    blocks = tiny.blocks(experts(pipe)[0])
    ran: list[nn.Module] = []
    for block in blocks:
        block.register_forward_pre_hook(lambda module, _: ran.append(module))
    run(pipe, **tiny.inputs(pipe, steps=1, cfg=False))
    assert ran == blocks


@pytest.mark.parametrize(("name", "scheduler"), [pair for pair in PAIRS if pair not in UNSUPPORTED])
def test_step_sigma_is_that_of_the_call(name: str, scheduler: str) -> None:
    tiny = TINY[name]
    pipe = with_scheduler(tiny.build(), scheduler)
    sigmas: list[float] = []
    with watch_calls(pipe, lambda _: sigmas.append(step_sigma(pipe.scheduler))):
        latents = run(pipe, **tiny.inputs(pipe, steps=4, cfg=False))
    assert latents.isfinite().all()
    # UniPC and DPM++ truncate timesteps to integers; Heun calls at each but the first one twice.
    assert sigmas == pytest.approx((pipe.scheduler.timesteps / 1000).tolist(), abs=1e-3)
    assert len(sigmas) == (7 if scheduler == "heun" else 4)


@pytest.mark.parametrize(("name", "scheduler"), UNSUPPORTED)
def test_pair_cannot_run(name: str, scheduler: str) -> None:
    pipe = with_scheduler(TINY[name].build(), scheduler)
    with pytest.raises(ValueError, match="does not support custom sigmas"):
        run(pipe, **TINY[name].inputs(pipe, steps=2))


@pytest.mark.parametrize("sampling_type", ["inverted_anti_drifting", "vanilla"])
def test_framepack_section_repeats_the_schedule(sampling_type: str) -> None:
    tiny = TINY["framepack"]
    pipe = tiny.build()
    sigmas: list[float] = []
    with watch_calls(pipe, lambda _: sigmas.append(step_sigma(pipe.scheduler))):
        run(pipe, **tiny.inputs(pipe, steps=3, sections=2, sampling_type=sampling_type))
    assert len(sigmas) == 2 * 3 * 2
    assert sigmas[:6] == sigmas[6:]


def test_wan22_calls_the_high_noise_expert_first() -> None:
    tiny = TINY["wan2.2_t2v"]
    pipe = tiny.build()
    calls: list[nn.Module] = []
    with watch_calls(pipe, calls.append):
        run(pipe, **tiny.inputs(pipe, steps=10, cfg=False))
    high = calls.count(pipe.transformer)
    assert 0 < high < 10
    assert calls == [pipe.transformer] * high + [pipe.transformer_2] * (10 - high)
