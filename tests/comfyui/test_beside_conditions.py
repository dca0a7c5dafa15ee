"""MagCache beside what conditions and samplers are given: guides, areas, masks, parts of runs."""

from typing import Any

import comfy.controlnet
import nodes
import pytest
import torch
from tiny_models import TINY, Conds, Tiny, sample
from watch import STEPS, Cached, cached, check, difference

FLUX, WAN = TINY["flux"], TINY["wan_t2v"]


class Control(comfy.controlnet.ControlBase):
    """Adds to the first double and the first single block, as a ControlNet's output would."""

    def get_control(self, x_noisy: torch.Tensor, t: torch.Tensor, *_: Any) -> dict[str, Any] | None:
        start, end = self.timestep_range
        if not start >= float(t[0]) >= end:
            return None
        tokens = x_noisy.shape[-1] * x_noisy.shape[-2] // 4
        values = torch.Generator().manual_seed(3)
        hint = torch.randn(1, tokens, 128, generator=values).expand(len(x_noisy), -1, -1)
        return {"input": [hint], "output": [0.5 * hint]}

    def copy(self) -> "Control":
        twin = Control()
        self.copy_to(twin)
        return twin


def with_values(conds: Conds, **values: Any) -> Conds:
    """Conditions with further entries, as nodes add them."""
    return [[text, {**options, **values}] for text, options in conds]


def controlled(tiny: Tiny, start: float = 0.0, end: float = 1.0) -> tuple[Conds, Conds]:
    control = Control().set_cond_hint(torch.zeros(1, 3, 64, 64), 1.0, (start, end))
    positive, negative = tiny.conds()
    extra = {"control": control, "control_apply_to_uncond": False}
    return with_values(positive, **extra), with_values(negative, **extra)


@pytest.mark.parametrize("name", ["flux_kontext", "wan_i2v", "wan22_i2v", "wan_vace"])
def test_reference_latents_start_images_and_a_vace_hint(name: str) -> None:
    check(TINY[name].build(), TINY[name])


def test_two_vace_hints() -> None:
    tiny = TINY["wan_vace"]
    positive, negative = tiny.conds()
    options = positive[0][1]
    two = {key: [options[key][0]] * 2 for key in ("vace_frames", "vace_mask")}
    two["vace_strength"] = [0.7, 0.4]
    check(tiny.build(), tiny, conds=(with_values(positive, **two), with_values(negative, **two)))


def test_a_controlnet() -> None:
    model = FLUX.build()
    plain, guided = sample(model, FLUX), sample(model, FLUX, conds=controlled(FLUX))
    assert difference(guided, plain) > 0.01  # the hint acts
    check(model, FLUX, conds=controlled(FLUX))


def test_where_a_controlnet_ends_its_residual_is_not_used_any_more() -> None:
    """Its hints are part of the residual, so the first evaluation without them is computed."""
    watched = cached(FLUX.build(), FLUX)
    sample(watched.model, FLUX, STEPS, conds=controlled(FLUX, end=0.15))
    first_without = watched.run.evaluations[2]  # at 2/10 of the trajectory
    sample(watched.model, FLUX, STEPS, conds=controlled(FLUX))
    assert watched.run.evaluations[2].skipped
    assert not first_without.skipped


def test_areas_and_masks() -> None:
    """Three regions make three rows of the positive condition."""
    positive, negative = FLUX.conds()
    (left,) = nodes.ConditioningSetArea().append(positive, 32, 64, 0, 0, 1.0)
    mask = torch.zeros(64, 64)
    mask[:32] = 1
    (top,) = nodes.ConditioningSetMask().append(negative, mask, "default", 0.8)
    (bounds,) = nodes.ConditioningSetMask().append(negative, mask, "mask bounds", 1.0)
    run = check(FLUX.build(), FLUX, conds=(positive + left + top + bounds, negative))
    assert len(run.evaluations[0].computed) > 1  # areas of several shapes are calls of their own


def test_a_mask_over_the_latent() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    latent = torch.randn(FLUX.shape, generator=torch.Generator().manual_seed(4))
    check(FLUX.build(), FLUX, latent=latent, noise_mask=mask)


@pytest.mark.parametrize("tiny", [FLUX, WAN], ids=["flux", "wan"])
def test_a_batch_of_three(tiny: Tiny) -> None:
    check(tiny.build(), tiny, latent=tiny.latent().repeat(3, *[1] * (len(tiny.shape) - 1)))


@pytest.mark.parametrize("tiny", [FLUX, WAN], ids=["flux", "wan"])
def test_prompts_of_different_lengths_are_two_calls_with_a_residual_each(tiny: Tiny) -> None:
    run = check(tiny.build(), tiny, conds=tiny.conds(tokens=7))
    assert {len(evaluation.computed) for evaluation in run.evaluations} == {2}


def test_without_guidance_there_is_one_branch() -> None:
    run = check(WAN.build(), WAN, cfg=1.0)
    (branch,) = run.evaluations[0].computed
    assert run._curves_of[branch] == ("cond",)


def test_guidance_is_one_call_of_two_branches() -> None:
    run = check(WAN.build(), WAN)
    (branch,) = run.evaluations[0].computed
    assert sorted(run._curves_of[branch]) == ["cond", "uncond"]


def test_an_image_to_start_from() -> None:
    """At denoise 0.5 nothing lies in the retention of 0.1; only the first is always computed."""
    latent = torch.randn(FLUX.shape, generator=torch.Generator().manual_seed(4))
    run = check(FLUX.build(), FLUX, denoise=0.5, latent=latent)
    assert run.evaluations[1].skipped


def _part(watched: Cached, first: int, last: int, latent: torch.Tensor) -> torch.Tensor:
    """Some of 10 steps, as KSamplerAdvanced runs them."""
    tiny = TINY["wan22_i2v"]
    more = {"start_step": first, "last_step": last, "force_full_denoise": last == STEPS}
    noise = {"disable_noise": first > 0}
    return sample(watched.model, tiny, STEPS, latent=latent, **more, **noise)


def test_a_sampling_in_two_parts_protects_its_beginning_once() -> None:
    model = TINY["wan22_i2v"].build()

    def both(threshold: float) -> tuple[Cached, Cached, torch.Tensor]:
        high, low = (cached(model, TINY["wan22_i2v"], threshold, retention=0.3) for _ in range(2))
        middle = _part(high, 0, 5, TINY["wan22_i2v"].latent())
        return high, low, _part(low, 5, STEPS, middle)

    _, _, uncached = both(0)
    high, low, output = both(0.3)
    assert [e.skipped for e in high.run.evaluations] == [False, False, False, True, False]
    assert [e.skipped for e in low.run.evaluations] == [False, True, False, True, False]
    assert 0 < difference(output, uncached) < 0.3


def test_two_experts_are_two_runs_each_with_its_part_of_the_curve() -> None:
    tiny = TINY["wan22_i2v"]
    models = tiny.build(), tiny.build()
    high, low = (cached(model, tiny) for model in models)
    _part(low, 8, STEPS, _part(high, 0, 3, tiny.latent()))
    curves = [next(iter(each.run.decider.curves.values())) for each in (high, low)]
    assert curves[0].positions[-1] > curves[1].positions[0]
    assert (len(high.run.evaluations), len(low.run.evaluations)) == (3, 2)
