"""Forecasting: any model is faster in its first sampling, predicted at its output."""

import importlib
import json
import logging
from pathlib import Path
from typing import Any

import comfy.sample
import folder_paths
import pytest
import torch
from comfy import model_sampling
from test_beside_conditions import controlled
from test_beside_nodes import skip_layers, windows
from test_emoji_trained import draw
from tiny_models import TINY, sample
from trained import flux, stable_diffusion, turbo, unet
from watch import Cached, difference, watching, without_residuals

from magcache import blocks
from magcache.doctor.tiny import EVERY
from magcache.doctor.tiny.sampling import flat
from magcache.hosts.comfyui import outputs
from magcache.hosts.comfyui.models import FAMILIES, MODELS
from magcache.hosts.comfyui.nodes.magcache import MagCache
from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed

FLUX, WAN = TINY["flux"], TINY["wan_t2v"]
STEPS = 12
REMEMBER = {row.network for row in MODELS if row.remembers}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    return tmp_path / "magcache"


def faster(model: Any, speedup: float = 2.0) -> Cached:
    return watching(MagCacheTargetSpeed().apply(model, speedup, "automatic")[0])


def check(model: Any, tiny: Any, steps: int = STEPS, **options: Any) -> Cached:
    """The first sampling skips half of its evaluations and ends nearer than without predictions.

    How near is no question to a model of random weights. Nothing is left behind.
    """
    plain = sample(model, tiny, steps, **options)
    fast = faster(model)
    output = sample(fast.model, tiny, steps, **options)
    assert 0.3 < fast.run.skipped / len(fast.run.evaluations) <= 0.5
    with without_residuals():
        worst = sample(fast.model, tiny, steps, **options)
    far, farther = (difference(flat(each), flat(plain)) for each in (output, worst))
    assert 0 < far < farther
    assert torch.equal(flat(sample(model, tiny, steps, **options)), flat(plain))
    handlers = [each.model_options.get("context_handler") for each in (model, fast.model)]
    assert not any(isinstance(handler, outputs.Handler) for handler in handlers)
    return fast


@pytest.mark.parametrize("name", EVERY)
def test_the_first_sampling_of_any_family_is_accelerated(name: str) -> None:
    tiny = EVERY[name]
    if tiny.network in REMEMBER:
        model = tiny.build()
        assert MagCacheTargetSpeed().apply(model, 2.0, "automatic")[0] is model
    else:
        check(tiny.build(), tiny)


def test_a_class_that_no_row_knows_is_accelerated_in_its_first_sampling(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a model that is newer than MagCache. The other nodes leave it alone, and say so."""
    tiny = EVERY["lumina2"]
    monkeypatch.delitem(FAMILIES, tiny.network)
    model = tiny.build()
    check(model, tiny)
    assert not caplog.records
    caplog.set_level(logging.INFO, "magcache")
    (by_rule,) = MagCache().apply(model, "auto", 0.24, 0.1, 5, 0, -1)
    assert torch.equal(sample(by_rule, tiny, STEPS), sample(model, tiny, STEPS))
    (warning,) = [each.getMessage() for each in caplog.records if each.name == "magcache"]
    assert "runs uncached: the block list and head of NextDiT are unknown" in warning


def test_a_skipped_evaluation_calls_nothing_of_the_model() -> None:
    fast = faster(WAN.build())
    calls: list[int] = []

    def count(executor: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return executor(*args, **kwargs)

    fast.model.add_wrapper_with_key("apply_model", "count", count)
    sample(fast.model, WAN, STEPS)
    assert len(calls) == STEPS - fast.run.skipped == 6


@pytest.mark.parametrize(
    "sampler",
    [
        "res_multistep",
        "dpmpp_2m",
        "uni_pc",
        "heun",
        "euler_cfg_pp",
        "er_sde",
        "lcm",
        "dpmpp_2m_sde",
    ],
)
def test_samplers(sampler: str) -> None:
    plain = sample(WAN.build(), WAN, 20, sampler=sampler)
    fast = faster(WAN.build())
    output = sample(fast.model, WAN, 20, sampler=sampler)
    assert fast.run.skipped >= 0.3 * len(fast.run.evaluations)
    assert 0 < difference(output, plain) < 0.5


@pytest.mark.parametrize("sampler", ["euler_cfg_pp", "res_multistep_cfg_pp"])
def test_cfg_plus_plus_at_a_scale_of_one(sampler: str) -> None:
    fast = faster(WAN.build())
    sample(fast.model, WAN, 20, sampler=sampler, cfg=1.0)
    assert fast.run.skipped == 10 and {len(e.computed) for e in fast.run.evaluations} == {2}
    assert [*fast.run.decider.curves] == ["mean", "difference"]


def test_euler_is_on_its_path_and_noise_is_not() -> None:
    path, x = blocks.Path(), torch.ones(3)
    for sigma, following in ((1.0, 0.7), (0.7, 0.4), (0.4, 0.1)):
        path.begin(x, sigma)
        assert torch.allclose(path.instead_of(torch.zeros(3)), torch.ones(3) * x[0])
        denoised = x * 0.5 + sigma
        path.end(denoised)
        x = x + (following - sigma) / sigma * (x - denoised)
    path.begin(x + torch.randn(3), 0.1)
    assert torch.allclose(path.instead_of(torch.zeros(3)), x)
    other = torch.zeros(5)
    assert path.instead_of(other) is other


@pytest.mark.parametrize("sampler", ["euler_ancestral", "res_multistep"])
def test_what_a_sampler_adds_is_not_predicted(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(model: Any) -> torch.Tensor:
        return draw(model, "emoji", (1, 16, 16, 16), 20, 3.0, sampler=sampler)

    plain, fast = drawn(flux("emoji")), drawn(faster(flux("emoji")).model)
    monkeypatch.setattr(blocks.Path, "instead_of", lambda _, x: x)
    without = drawn(faster(flux("emoji")).model)
    assert difference(fast, plain) < 0.8 * difference(without, plain)


@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform"])
def test_context_windows_are_inside_of_what_is_predicted(schedule: str) -> None:
    check(windows(WAN.build(), schedule), WAN, latent=torch.zeros(1, 16, 6, 8, 8))


@pytest.mark.parametrize("end", [1.0, 0.5])
def test_skip_layer_guidance(end: float) -> None:
    check(skip_layers(FLUX.build(), end), FLUX)


def patched(module: str, name: str, model: Any, *values: Any) -> Any:
    """What a node of ComfyUI's own, of either kind, makes of a model."""
    kind = getattr(importlib.import_module(f"comfy_extras.{module}"), name)
    if hasattr(kind, "execute"):
        return kind.execute(model, *values).result[0]
    return getattr(kind(), kind.FUNCTION)(model, *values)[0]


@pytest.mark.parametrize(
    ("module", "name", "values"),
    [
        ("nodes_model_advanced", "RescaleCFG", (0.7,)),
        ("nodes_cfg", "CFGZeroStar", ()),
        ("nodes_cfg", "CFGNorm", (1.0,)),
        ("nodes_apg", "APG", (1.0, 5.0, 0.0)),
        ("nodes_tcfg", "TCFG", ()),
        ("nodes_mahiro", "Mahiro", ()),
    ],
)
def test_what_is_done_with_the_guided_output(module: str, name: str, values: Any) -> None:
    check(patched(module, name, WAN.build(), *values), WAN)


@pytest.mark.parametrize("name", ["SelfAttentionGuidance", "PerturbedAttentionGuidance"])
def test_guidance_by_a_further_call(name: str) -> None:
    module, values = {
        "SelfAttentionGuidance": ("nodes_sag", (0.5, 2.0)),
        "PerturbedAttentionGuidance": ("nodes_pag", (3.0,)),
    }[name]
    model = patched(module, name, unet(), *values)
    fast = faster(model)
    plain, output = (
        draw(each, "emoji-unet", (1, 4, 32, 32), 12, 5.0) for each in (model, fast.model)
    )
    assert fast.run.skipped == 6 and {len(e.computed) for e in fast.run.evaluations} == {3}
    assert 0 < difference(output, plain) < 0.5


@pytest.mark.parametrize(
    ("build", "name", "shape", "cfg"),
    [(unet, "emoji-unet", (1, 4, 32, 32), 5.0), (turbo, "emoji-turbo", (1, 16, 16, 16), 1.0)],
    ids=["unet", "turbo"],
)
def test_trained_models_draw_what_they_draw_without(
    build: Any, name: str, shape: Any, cfg: float
) -> None:
    model = build()
    fast = faster(model)
    plain, output = (draw(each, name, shape, 20, cfg) for each in (model, fast.model))
    assert fast.run.skipped >= 9 and fast.run.mended > 0
    assert 0 < difference(output, plain) < 0.1


@pytest.mark.parametrize("sampler", ["euler", "res_multistep"])
def test_eight_steps_of_a_distilled_model_end_nearer_than_six(sampler: str) -> None:
    model, shape = turbo(), (1, 16, 16, 16)
    fast = faster(model)
    full, forecast, six = (
        draw(each, "emoji-turbo", shape, steps, 1.0, sampler=sampler)
        for each, steps in ((model, 8), (fast.model, 8), (model, 6))
    )
    assert fast.run.skipped == 2 and not any(e.skipped for e in fast.run.evaluations[-2:])
    assert 0 < 2 * difference(forecast, full) < difference(six, full)
    (note,) = fast.samplings[-1].report().warnings
    assert "computes fewer than 6 evaluations" in note and note.endswith("the best is 1.33")


def test_a_draft_of_eight_steps_takes_less_and_says_so() -> None:
    fast = watching(MagCacheTargetSpeed().apply(turbo(), 2.0, "automatic", draft=True)[0])
    draw(fast.model, "emoji-turbo", (1, 16, 16, 16), 8, 1.0)
    assert fast.run.skipped == 4
    assert fast.samplings[-1].report().warnings == [
        "a draft: it may differ from the full run as much as 4 plain steps do"
    ]


@pytest.mark.parametrize("prediction", ["EPS", "V_PREDICTION"])
def test_stable_diffusion_is_accelerated_in_its_first_sampling(prediction: str) -> None:
    model = stable_diffusion(prediction)
    texts = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(1))
    conds = [[[text[None], {}]] for text in texts]
    latent = torch.zeros(1, 4, 16, 16)

    def draw(model: Any) -> torch.Tensor:
        noise = comfy.sample.prepare_noise(latent, 1)
        return comfy.sample.sample(
            model, noise, 20, 5.0, "euler", "normal", *conds, latent, disable_pbar=True, seed=1
        )

    fast, plain = faster(model), draw(model)
    assert 0 < difference(draw(fast.model), plain) < 0.02
    assert fast.run.skipped == 10 and torch.equal(draw(model), plain)


def test_a_compiled_model_stays_one_graph() -> None:
    model = WAN.build()
    graphs: list[Any] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = importlib.import_module("comfy_api.torch_helpers").set_torch_compile_wrapper
    alone, both = model.clone(), faster(model).model
    compiled(alone, backend=backend)
    sample(alone, WAN, STEPS)
    count = len(graphs)
    torch._dynamo.reset()
    compiled(both, backend=backend)
    sample(both, WAN, STEPS)
    assert len(graphs) - count <= count


def test_a_mask_over_the_latent_and_an_image_to_start_from() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    latent = torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    check(WAN.build(), WAN, 20, latent=latent, denoise=0.7, noise_mask=mask)


@pytest.mark.parametrize(("steps", "skipped"), [(20, 5), (8, 1)])
def test_the_parts_of_a_split_run_are_planned_as_the_whole(steps: int, skipped: int) -> None:
    """Once, 2x of 10 + 10 steps was "best is 1.67x" in each part, and of 4 + 4 nothing."""
    model, half, runs = WAN.build(), steps // 2, []
    for first, last, options in ((0, half, {"force_full_denoise": False}), (half, steps, {})):
        fast = faster(model)
        noise = {"disable_noise": bool(first), "start_step": first, "last_step": last}
        sample(fast.model, WAN, steps, **noise, **options)
        runs.append(fast.run)
    assert [run.skipped for run in runs] == [skipped] * 2
    assert all(bool(run.decider.notes) is (steps == 8) for run in runs)  # 2x of 8 is too much


def test_nothing_is_used_beyond_the_end_of_a_controlnet() -> None:
    fast = check(FLUX.build(), FLUX, 20, conds=controlled(FLUX, end=0.5))
    sigmas = [each.sigma for each in fast.run.evaluations]
    computed = [each.computed and all(each.computed.values()) for each in fast.run.evaluations]
    half = next(place for place, sigma in enumerate(sigmas) if sigma < 0.5 + 1e-6)
    assert any(computed[half : half + 2])


@pytest.mark.parametrize("kind", ["flow", "eps"])
def test_velocities_follow_from_the_denoised_and_back(kind: str) -> None:
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.7, 0.7]).reshape(-1, 1, 1, 1)
    denoised = [torch.randn_like(x), torch.zeros_like(x), torch.randn_like(x)]
    own = outputs._Velocities(x, sigma, kind == "flow", [0, 2], 3)
    signals = own.signals(denoised)
    assert len(signals) == 2
    for found, wanted in zip(own.output(signals), denoised, strict=True):
        torch.testing.assert_close(found, wanted)
    noise = (x - denoised[0]) / sigma
    wanted = noise if kind == "flow" else noise - denoised[0]
    torch.testing.assert_close(signals[0] + signals[1] / 2, wanted)


def test_the_levels_of_both_kinds_of_model() -> None:
    class Flow(model_sampling.ModelSamplingDiscreteFlow, model_sampling.CONST):
        pass

    class Eps(model_sampling.ModelSamplingDiscrete, model_sampling.EPS):
        pass

    assert outputs.level_of(Flow())(0.25) == 0.25
    assert outputs.level_of(Eps())(3.0) == 0.75


# Learning


def learned(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (folder / "learned").glob("*.json")]


def test_a_sampling_teaches_its_model(folder: Path) -> None:
    model = WAN.build()
    for runs in (1, 2):
        sample(faster(model).model, WAN, STEPS)
        (book,) = learned(folder)
        assert book["runs"] == runs and book["model"]["model"] == "WanModel"


def test_what_an_interrupted_sampling_saw_is_not_kept(folder: Path) -> None:
    fast = faster(WAN.build())

    def stop(executor: Any, *args: Any, **kwargs: Any) -> Any:
        if len(calls) == 3:
            raise RuntimeError("interrupted")
        calls.append(1)
        return executor(*args, **kwargs)

    calls: list[int] = []
    fast.model.add_wrapper_with_key("apply_model", "stop", stop)
    with pytest.raises(RuntimeError, match="interrupted"):
        sample(fast.model, WAN, STEPS)
    assert not learned(folder)


def test_an_image_changed_a_little_teaches_nothing_that_harms_a_whole_one() -> None:
    """Once, a first sampling at denoise 0.3 ruined every later text-to-image, at 12 dB."""
    model = flux("emoji")
    shape, noise = (1, 16, 16, 16), torch.zeros(1, 16, 16, 16)
    whole = draw(model, "emoji", shape, 28, 3.0)
    for _ in range(2):
        draw(faster(model).model, "emoji", shape, 10, 3.0, whole, 0.3)
    again = faster(model)
    assert difference(draw(again.model, "emoji", shape, 28, 3.0, noise), whole) < 0.02
    assert again.run.skipped == 14
