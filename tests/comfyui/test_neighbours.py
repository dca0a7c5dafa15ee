"""Other nodes and samplers on a trained model: MagCache ends as near its uncached run as alone."""

import importlib
import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.k_diffusion.sampling import sample_euler
from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow
from trained import flux, unet
from watch import Cached, watching

from magcache.emoji import keywords
from magcache.hosts.comfyui.nodes.emoji import Pixels
from magcache.hosts.comfyui.nodes.magcache import MagCache
from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed
from magcache.images import psnr

SHAPE, STEPS = (1, 16, 16, 16), 16
LOSS = 9.0  # dB; from one prompt or seed to another it is more


@cache
def emoji() -> Any:
    return flux("emoji")


def by_rule(model: Any) -> Cached:
    return watching(MagCache().apply(model, "auto", 0.24, 0.2, 5, 0, -1)[0])


def by_forecast(model: Any) -> Cached:
    return watching(MagCacheTargetSpeed().apply(model, 2.0, "automatic")[0])


ENGINES: dict[str, Callable[[Any], Cached]] = {"rule": by_rule, "forecast": by_forecast}
both = pytest.mark.parametrize("engine", ENGINES)


def draw(
    model: Any, prompt: str = "fox face", steps: int = STEPS, batch: int = 1,
    sampler: Any = "euler", latent: torch.Tensor | None = None, denoise: float = 1.0,
    **options: Any,
) -> torch.Tensor:  # fmt: skip
    """Latents that the emoji model draws, by a sampler's name or as SamplerCustom does."""
    embeds = keywords.read(keywords.find_folder("emoji")).embed((prompt, "")).split(1)
    conds = [[[each, {"pooled_output": each.mean(1)}]] for each in embeds]
    latent = torch.zeros(batch, *SHAPE[1:]) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, 1)
    options |= {"disable_pbar": True, "seed": 1}
    if isinstance(sampler, str):
        return comfy.sample.sample(
            model, noise, steps, 3.0, sampler, "simple", *conds, latent, denoise=denoise, **options
        )
    schedule = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(schedule, "simple", steps)
    return comfy.sample.sample_custom(model, noise, 3.0, sampler, sigmas, *conds, latent, **options)


def nearness(output: torch.Tensor, uncached: torch.Tensor) -> float:
    """PSNR of what is drawn, in dB."""
    pixels = Pixels(emoji().get_model_object("latent_format"))
    return psnr(float((pixels.decode(output) - pixels.decode(uncached)).square().mean()))


@cache
def plain(prompt: str = "fox face", **options: Any) -> torch.Tensor:
    """What is drawn uncached, without a neighbour."""
    return draw(emoji(), prompt, **options)


@cache
def alone(engine: str, steps: int = STEPS) -> float:
    """PSNR without a neighbour."""
    return nearness(draw(ENGINES[engine](emoji()).model, steps=steps), plain(steps=steps))


def node(module: str, name: str, model: Any, *values: Any) -> Any:
    """What a node of ComfyUI's own, of either kind, makes of a model."""
    kind = getattr(importlib.import_module(f"comfy_extras.{module}"), name)
    if hasattr(kind, "execute"):
        return kind.execute(model, *values).result[0]
    return getattr(kind(), kind.FUNCTION)(model, *values)[0]


def detail_daemon(amount: float) -> Any:
    """Euler's method that tells the model a lower σ in the middle of the run."""

    def sampler(model: Any, x: torch.Tensor, sigmas: torch.Tensor, **options: Any) -> Any:
        def lower(x: torch.Tensor, sigma: torch.Tensor, **extra: Any) -> Any:
            middle = 1 - 2 * abs(float(sigma[0]) - 0.5)
            return model(x, sigma * (1 - amount * max(0.0, middle)), **extra)

        lower.inner_model = model.inner_model  # type: ignore[attr-defined]
        return sample_euler(lower, x, sigmas, **options)

    return comfy.samplers.KSAMPLER(sampler)


def stages(places: list[float], weights: list[float]) -> Any:
    """Explicit Runge-Kutta steps, with an evaluation at each of these parts of a step."""

    def sampler(
        model: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: Any = None, **_: Any
    ) -> torch.Tensor:
        ones = x.new_ones(len(x))
        for sigma, following in itertools.pairwise(sigmas[:-1]):
            slopes: list[torch.Tensor] = []
            for place in places:
                at = sigma + place * (following - sigma)
                here = x + (at - sigma) * slopes[-1] if slopes else x
                slopes.append((here - model(here, at * ones, **extra_args)) / at)
            step = sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))
            x = x + (following - sigma) * step
        return model(x, sigmas[-2] * ones, **extra_args)

    return comfy.samplers.KSAMPLER(sampler)


@pytest.mark.parametrize(
    ("module", "name", "values"),
    [
        ("nodes_cfg", "CFGNorm", (1.0,)),
        ("nodes_model_advanced", "RescaleCFG", (0.7,)),
        ("nodes_eps", "EpsilonScaling", (1.005,)),
    ],
)
@both
def test_what_is_done_with_the_guided_output_costs_nothing(
    engine: str, module: str, name: str, values: Any
) -> None:
    """CFGNorm was once seen at 14.7 dB: of one prompt and seed, which 10 plain steps lose too."""
    model = node(module, name, emoji(), *values)
    watched = ENGINES[engine](model)
    assert nearness(draw(watched.model), draw(model)) > alone(engine) - LOSS
    assert watched.run.skipped >= STEPS // 2


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [
        (detail_daemon(0.3), STEPS),
        (stages([0, 0.5], [0, 1]), 12),
        (stages([0, 1 / 3, 2 / 3], [0.25, 0, 0.75]), 10),
    ],
    ids=["detail daemon", "two stages", "three stages"],
)
@both
def test_samplers_that_evaluate_at_other_noise_levels(
    engine: str, sampler: Any, steps: int
) -> None:
    watched = ENGINES[engine](emoji())
    output = draw(watched.model, sampler=sampler, steps=steps)
    assert nearness(output, draw(emoji(), sampler=sampler, steps=steps)) > alone(engine) - LOSS
    assert watched.run.skipped >= 0.4 * len(watched.run.evaluations)


@both
def test_differential_diffusion(engine: str) -> None:
    model = node("nodes_differential_diffusion", "DifferentialDiffusion", emoji())
    mask = torch.linspace(0, 1, SHAPE[-1]).expand(1, 1, *SHAPE[2:]).contiguous()
    options = {"latent": plain("dog face"), "noise_mask": mask}
    watched = ENGINES[engine](model)
    assert nearness(draw(watched.model, **options), draw(model, **options)) > alone(engine) - LOSS
    assert watched.run.skipped >= STEPS // 2


@both
def test_a_shift_that_changes_between_two_samplings_of_one_patcher(engine: str) -> None:
    """Each sampling goes by the noise levels that it has, and the second leaves nothing behind."""
    watched, object_of = ENGINES[engine](emoji()), "model_sampling"
    draw(watched.model)
    shifted = ModelSamplingAuraFlow().patch_aura(emoji(), 3.0)[0]
    uncached, fresh = draw(shifted), draw(ENGINES[engine](shifted).model)
    watched.model.add_object_patch(object_of, shifted.get_model_object(object_of))
    near = nearness(draw(watched.model), uncached)
    assert near > nearness(fresh, uncached) - LOSS
    assert watched.run.evaluations[1].sigma > 0.97
    del watched.model.object_patches[object_of]
    assert nearness(draw(watched.model), plain()) > alone(engine) - LOSS


@both
def test_batches_of_1_4_2_and_1_on_one_patcher(engine: str) -> None:
    watched = ENGINES[engine](emoji())
    uncached = plain(batch=4, steps=10)
    for batch in (1, 4, 2, 1):
        output = draw(watched.model, batch=batch, steps=10)
        assert nearness(output, uncached[:batch]) > alone(engine, 10) - LOSS
        assert watched.run.skipped >= 4


@both
def test_prompts_that_low_memory_splits_in_mid_run(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule computes one evaluation more, as the two calls have no residuals yet."""
    watched, usual = ENGINES[engine](emoji()), ENGINES[engine](emoji())
    draw(usual.model)
    low = next(each.sigma for each in usual.run.evaluations[6:] if each.skipped)
    sigmas, sizes = [1.0], []
    patcher = comfy.model_patcher.ModelPatcher
    asked = patcher if hasattr(patcher, "get_free_memory") else comfy.model_management  # older
    monkeypatch.setattr(asked, "get_free_memory", lambda *_: 0 if sigmas[-1] <= low else 1e12)

    def begin(executor: Any, x: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        sigmas.append(float(timestep[0]))
        return executor(x, timestep, *args, **kwargs)

    def call(executor: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(x))
        return executor(x, *args, **kwargs)

    watched.model.add_wrapper_with_key("predict_noise", "begin", begin)
    watched.model.add_wrapper_with_key("apply_model", "call", call)
    output = draw(watched.model)
    assert {*sizes} == {1, 2}
    monkeypatch.undo()
    assert nearness(output, plain()) > alone(engine) - LOSS
    assert usual.run.skipped - watched.run.skipped <= 1
    text = str(watched.samplings[-1].report())
    assert ("no usable residual 1" in text) is (engine == "rule")


@both
def test_tiles_one_after_another(engine: str) -> None:
    """As tiled upscalers do it: each tile a sampling of its own, then a whole picture."""
    watched = ENGINES[engine](emoji())
    for prompt in ("fox face", "dog face"):
        tile = {"latent": plain(prompt), "denoise": 0.4, "prompt": prompt, "steps": 10}
        near = nearness(draw(watched.model, **tile), draw(emoji(), **tile))
        assert near > alone(engine) - LOSS and watched.run.skipped >= 5
    assert nearness(draw(watched.model), plain()) > alone(engine) - LOSS


@pytest.mark.parametrize(
    ("module", "name", "values"),
    [
        ("nodes_sag", "SelfAttentionGuidance", (0.5, 2.0)),
        ("nodes_pag", "PerturbedAttentionGuidance", (3.0,)),
    ],
)
def test_the_rule_leaves_a_unet_with_its_guidance_as_it_is_and_says_so(
    module: str, name: str, values: Any
) -> None:
    from test_emoji_trained import draw as draw_unet

    model = node(module, name, unet(), *values)
    watched = by_rule(model)
    plain, output = (
        draw_unet(each, "emoji-unet", (1, 4, 32, 32), 6, 5.0) for each in (model, watched.model)
    )
    assert torch.equal(output, plain)
    report = watched.samplings[-1].report()
    assert report.headline() == (
        "MagCache: runs uncached: the block list and head of UNetModel are unknown"
    )
