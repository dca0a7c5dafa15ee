"""Every sampler of ComfyUI: each of its evaluations is counted, and it ends near its own result."""

import comfy.samplers
import pytest
import torch
from tiny_models import TINY, count_blocks, sample
from watch import cached, difference, without_residuals

WAN = TINY["wan_t2v"]
STEPS = 8
SAMPLERS = comfy.samplers.KSampler.SAMPLERS
ADAPTIVE = "dpm_adaptive"  # chooses its steps by what the model gives
DRAW_NOISE = ("ancestral", "sde", "sa_solver")  # a random model's errors stay in what they draw
OF_EACH_KIND = ("euler", "heun", "dpm_2_ancestral", "dpmpp_2m_sde", "uni_pc", "er_sde")


def run(sampler: str, scheduler: str) -> None:
    # CFG++ takes CFG as its own, much smaller scale.
    options = {"sampler": sampler, "scheduler": scheduler, "cfg": 1.0 if "cfg_pp" in sampler else 3}
    model = WAN.build(depth=1)
    with count_blocks(model, WAN) as counts:
        uncached = sample(model, WAN, STEPS, **options)
    watched, bare = (cached(model, WAN, retention=0.3) for _ in range(2))
    output = sample(watched.model, WAN, STEPS, **options)
    with without_residuals():
        worst = difference(sample(bare.model, WAN, STEPS, **options), uncached)
    near = 0.75 if any(kind in sampler for kind in DRAW_NOISE) else 0.5
    assert difference(output, uncached) < (1.0 if sampler == "lcm" else near) * worst
    evaluations = watched.run.evaluations
    assert watched.run.skipped >= 3
    if sampler != ADAPTIVE:
        assert [e.sigma for e in evaluations] == [each.sigma for each in counts.evaluations]
        if sampler != "dpm_fast":  # takes its own steps
            assert {e.step for e in evaluations} == set(range(STEPS))
        off = cached(model, WAN, threshold=0).model
        assert torch.equal(sample(off, WAN, STEPS, **options), uncached)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sampler(sampler: str) -> None:
    run(sampler, "simple")


@pytest.mark.parametrize("scheduler", ["normal", "beta", "karras"])
@pytest.mark.parametrize("sampler", OF_EACH_KIND)
def test_other_schedulers(sampler: str, scheduler: str) -> None:
    run(sampler, scheduler)
