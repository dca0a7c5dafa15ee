"""Asking for a speed-up: any pipeline is accelerated from its first sampling, at its output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers as dfs
import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from torch import nn

import magcache
from further import FURTHER
from harness import FAMILIES, distance, reference, sample
from magcache.curves.calibration import CalibrationError
from magcache.decide import Mender, Reason
from magcache.decide.by_plan import PlanDecider
from magcache.emoji import image, unet, video
from magcache.hosts.diffusers.outputs import Outputs, Sampled, velocity_of
from magcache.run import Run
from tiny import TINY, Tiny, experts, run

FLUX, WAN22, WAN21 = TINY["flux"], TINY["wan2.2_t2v"], TINY["wan2.1_t2v"]
STEPS = 12


@contextmanager
def calls(models: list[nn.Module]) -> Iterator[list[nn.Module]]:
    """The models in the order in which their own forwards run; entered before `apply`."""
    seen: list[nn.Module] = []
    with pytest.MonkeyPatch.context() as patch:
        for model in models:

            def forward(
                *args: Any, own: nn.Module = model, run: Any = model.forward, **kw: Any
            ) -> Any:
                seen.append(own)
                return run(*args, **kw)

            patch.setattr(model, "forward", forward)
        yield seen


@pytest.mark.parametrize("cfg", [True, False])
@pytest.mark.parametrize("tiny", FAMILIES)
def test_the_first_sampling_of_any_pipeline_is_accelerated(tiny: Tiny, cfg: bool) -> None:
    pipe, options = tiny.build(), {"steps": STEPS, "cfg": cfg}
    inputs = tiny.inputs(pipe, **options)
    with calls(experts(pipe)) as computed, magcache.apply(pipe, speedup=1.5) as applied:
        latents = run(pipe, **inputs)
        report = applied.report()
    branches = tiny.calls_per_evaluation[cfg]
    assert report.skipped == 4 and len(computed) == (STEPS - 4) * branches
    assert 0 < distance(latents, reference(tiny, **options).latents) < 0.5
    assert torch.equal(
        run(pipe, **tiny.inputs(pipe, **options)), reference(tiny, **options).latents
    )


@pytest.mark.parametrize("tiny", FURTHER.values(), ids=FURTHER)
def test_further_pipelines_are_accelerated_in_their_first_sampling_too(tiny: Tiny) -> None:
    pipe = tiny.build()
    plain = flat(pipe(**tiny.inputs(pipe, steps=9)))
    with calls(experts(pipe)) as computed, magcache.apply(pipe, speedup=1.5) as applied:
        output = flat(pipe(**tiny.inputs(pipe, steps=9)))
    assert applied.report().skipped == 3
    assert len(computed) == 6 * tiny.calls_per_evaluation[True]
    assert 0 < distance(output, plain) < 0.2


def flat(output: Any) -> torch.Tensor:
    """All values of a pipeline's output, which may be of several streams."""
    if isinstance(output, torch.Tensor):
        return output.flatten()
    parts = output.values() if isinstance(output, dict) else output
    return torch.cat([flat(part) for part in parts if part is not None])


def test_a_class_that_no_table_has_is_accelerated_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = FLUX.build()
    pipe.transformer.__class__ = type("Unheard", (type(pipe.transformer),), {})
    monkeypatch.setattr("magcache.hosts.diffusers.models.FAMILIES", {})
    with magcache.apply(pipe, speedup=2) as applied:
        sample_of(pipe)
    assert applied.report().skipped == 6


def sample_of(pipe: Any, **options: Any) -> torch.Tensor:
    return run(pipe, **FLUX.inputs(pipe, steps=STEPS, **options))


def test_two_experts_are_planned_as_one_trajectory(runs: list[Run]) -> None:
    pipe = WAN22.build()
    with calls(experts(pipe)) as computed, magcache.apply(pipe, speedup=2) as applied:
        run(pipe, **WAN22.inputs(pipe, steps=20))
        second = next(i for i, model in enumerate(computed) if model is pipe.transformer_2)
    (own,) = runs
    assert applied.report().skipped == 10 and computed[0] is pipe.transformer and second
    (place,) = own.decider.course.fresh
    assert not own.evaluations[place].skipped
    assert own.evaluations[place].reason is Reason.PLANNED or not own.cache.rooms()


@pytest.mark.parametrize(("draft", "skipped"), [(False, 2), (True, 4)])
def test_of_eight_steps_six_are_computed_and_a_draft_takes_less(draft: bool, skipped: int) -> None:
    pipe = WAN22.build()
    with magcache.apply(pipe, speedup=2, draft=draft) as applied:
        run(pipe, **WAN22.inputs(pipe, steps=8))
        report = applied.report()
    assert report.skipped == skipped
    assert any("a draft" in note for note in report.warnings) is draft


def test_a_second_model_that_comes_unannounced_takes_nothing_over(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magcache.hosts.diffusers.session.Session.switches", lambda *_: [])
    pipe = WAN22.build()
    with magcache.apply(pipe, speedup=2):
        run(pipe, **WAN22.inputs(pipe, steps=20))
    changed = [e for e in runs[0].evaluations if e.reason is Reason.NO_RESIDUAL]
    assert len(changed) == 1


def shaken(controlnet: nn.Module) -> nn.Module:
    """A ControlNet as it is after training: what it adds is not zero."""
    for name, weight in controlnet.named_parameters():
        if "controlnet" in name and weight.ndim > 1:
            nn.init.normal_(weight, std=0.1)
    return controlnet.eval()


def unet_with(controlnets: int) -> tuple[Any, dict[str, Any]]:
    """The U-Net's pipeline with ControlNets, and what to sample with."""
    model = unet.load()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = [shaken(dfs.ControlNetModel.from_unet(model.pipe.unet)) for _ in range(controlnets)]
    parts = {**model.pipe.components, "add_watermarker": False}
    pipe = dfs.StableDiffusionXLControlNetPipeline(
        **parts, controlnet=nets[0] if controlnets == 1 else nets
    )
    pipe.set_progress_bar_config(disable=True)
    picture = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(3))
    inputs = {
        **model._conditions(["cat"], 5.0),
        "image": picture if controlnets == 1 else [picture] * controlnets,
        "num_inference_steps": STEPS,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "latent",
        "height": 256,
        "width": 256,
    }
    return pipe, inputs


@pytest.mark.parametrize("number", [1, 2])
def test_a_skipped_evaluation_calls_no_controlnet(number: int) -> None:
    pipe, inputs = unet_with(number)
    plain = run(pipe, **inputs)
    pipe, inputs = unet_with(number)
    with calls([pipe.unet, pipe.controlnet]) as computed, magcache.apply(pipe, speedup=1.5) as on:
        latents = run(pipe, **inputs)
        report = on.report()
    assert report.skipped == 4 and computed == [pipe.controlnet, pipe.unet] * 8
    assert 0 < distance(latents, plain) < 0.1


def test_a_controlnet_is_left_as_it_was() -> None:
    pipe, inputs = unet_with(1)
    plain, before = run(pipe, **inputs), {*vars(pipe.controlnet)}
    with magcache.apply(pipe, speedup=2):
        run(pipe, **inputs)
    assert {*vars(pipe.controlnet)} == before
    inputs["generator"].manual_seed(0)
    assert torch.equal(run(pipe, **inputs), plain)


def test_nothing_is_used_beyond_where_a_controlnet_ends(runs: list[Run]) -> None:
    pipe, inputs = unet_with(2)
    ends = {"control_guidance_end": [0.5, 1.0], "control_guidance_start": [0.0, 0.0]}
    with magcache.apply(pipe, speedup=2):
        run(pipe, **inputs, **ends)
    (own,) = runs
    assert own.evaluations[STEPS // 2].reason is Reason.NO_RESIDUAL


def test_the_guidance_scale_of_the_call_is_reckoned_with(runs: list[Run]) -> None:
    pipe = FLUX.build()
    with magcache.apply(pipe, speedup=2):
        sample_of(pipe)
        sample_of(pipe, cfg=False)
    guided, plain = (r.decider for r in runs)
    assert isinstance(guided, PlanDecider) and isinstance(plain, PlanDecider)
    assert guided.guidance == FLUX.inputs(pipe)["true_cfg_scale"] != 1
    assert plain.guidance == 1 and list(plain.grams) == ["mean"]


def test_a_second_order_sampler_is_planned_evaluation_by_evaluation() -> None:
    pipe = WAN21.build()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    with magcache.apply(pipe, speedup=2) as applied:
        run(pipe, **WAN21.inputs(pipe, steps=STEPS))
        evaluations = applied.report().evaluations
        assert evaluations == 2 * STEPS - 1
        assert evaluations - applied.report().skipped == evaluations // 2


def test_a_hand_written_loop_is_accelerated() -> None:
    model = unet.load()
    scheduler = dfs.DDIMScheduler.from_config(model.pipe.scheduler.config)
    scheduler.set_timesteps(STEPS)
    net, (embeds, pooled) = model.pipe.unet, model.encode(["cat"])
    told = {"text_embeds": pooled, "time_ids": torch.zeros(1, 6)}
    x = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with (
        calls([net]) as computed,
        magcache.apply(net, scheduler=scheduler, speedup=2),
        torch.no_grad(),
    ):
        for t in scheduler.timesteps:
            noise = net(x, t, encoder_hidden_states=embeds, added_cond_kwargs=told).sample
            x = scheduler.step(noise, t, x).prev_sample
    assert len(computed) == STEPS // 2 and x.isfinite().all()


# U-Nets, and what their schedulers ask them for


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_velocity_follows_from_every_parametrisation(kind: str) -> None:
    scheduler = dfs.EulerDiscreteScheduler(prediction_type=kind)
    sigma, x0, noise = 3.0, torch.randn(5), torch.randn(5)
    x = (x0 + sigma * noise) / (1 + sigma**2) ** 0.5
    size = (1 + sigma**2) ** 0.5
    output = {"epsilon": noise, "v_prediction": (noise - sigma * x0) / size, "sample": x0}[kind]
    scale, shift = velocity_of(scheduler, sigma)
    assert torch.allclose(scale * output + shift * x, noise - x0, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "scheduler",
    [dfs.EulerDiscreteScheduler, dfs.DDIMScheduler, dfs.DPMSolverMultistepScheduler],
)
def test_a_unet_is_accelerated_in_its_first_sampling(scheduler: Any, kind: str) -> None:
    model = unet.load()
    model.pipe.scheduler = scheduler.from_config(
        model.pipe.scheduler.config, prediction_type=kind, clip_sample=False
    )
    plain = model.generate(["cat"], [1], STEPS, 5.0)
    with calls([model.pipe.unet]) as computed, magcache.apply(model.pipe, speedup=1.5) as applied:
        fast = model.generate(["cat"], [1], STEPS, 5.0)
    assert applied.report().skipped == 4 and len(computed) == 8
    assert distance(fast, plain) < (0.1 if kind == "epsilon" else 0.6)  # it was trained for ε
    assert torch.equal(model.generate(["cat"], [1], STEPS, 5.0), plain)


def test_what_a_multistep_method_adds_is_not_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = image.load(shift=3.0)
    model.pipe.scheduler = dfs.UniPCMultistepScheduler.from_config(
        model.pipe.scheduler.config,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=3.0,
    )

    def drawn() -> torch.Tensor:
        return model.generate(["red heart"], [1], 20, 3.0)

    plain = drawn()
    with magcache.apply(model.pipe, speedup=2):
        fast = drawn()
        monkeypatch.setattr("magcache.hosts.diffusers.outputs.Outputs._off", lambda *_: None)
        without = drawn()
    assert 0 < distance(fast, plain) < 0.8 * distance(without, plain)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_model_that_returns_the_negative_is_not_followed(sign: int) -> None:
    scheduler = dfs.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    outputs, x, velocity = Outputs(), torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    for sigma in (0.9, 0.6, 0.3):
        sampled = Sampled.by(scheduler, sigma, guides=False, guidance=1.0)
        if outputs._path:
            outputs._follow(outputs._path, x, sampled)
        outputs._last, x = [[sign * velocity]], x - 0.3 * velocity
    assert (outputs._path is not None) == (sign == 1)


def test_a_rule_needs_a_transformer() -> None:
    with pytest.raises(TypeError, match="with speedup=, U-Nets are accelerated too"):
        magcache.apply(unet.load().pipe, threshold=0.1, preset="flux")


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_no_graph_is_added_to_a_model_that_is_compiled_as_a_whole(how: str) -> None:
    pipe, graphs = FLUX.build(), []

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    if how == "wrapped":
        pipe.transformer = torch.compile(pipe.transformer, backend=backend)
    else:
        pipe.transformer.compile(backend=backend)
    plain = sample_of(pipe)
    before = len(graphs)
    with magcache.apply(pipe, speedup=2) as applied:
        sample_of(pipe)
        assert applied.report().skipped == 6
    assert len(graphs) == before
    assert torch.equal(sample_of(pipe), plain)


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("how", ["group offload", "layerwise casting"])
def test_hooks_of_diffusers_itself_on_the_same_model(how: str, first: bool) -> None:
    pipe, cpu = FLUX.build(), torch.device("cpu")

    def hook() -> None:
        if how == "group offload":
            apply_group_offloading(pipe.transformer, cpu, cpu, offload_type="leaf_level")
        else:
            types = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.float32}
            apply_layerwise_casting(pipe.transformer, **types)

    if first:
        hook()
    with magcache.apply(pipe, speedup=2) as applied:
        if not first:
            hook()
        assert sample_of(pipe).isfinite().all()
    assert applied.report().skipped == 6


# Mending


@pytest.mark.parametrize("model", [video, image], ids=["two branches, two calls", "one call"])
def test_mended_images_are_closer_to_the_uncached_ones(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, cfg = model.load(shift=1.0), 3.0 if model is video else 1.0
    prompts, seeds = small.prompts("test")[:2], [1, 2]
    plain = small.generate(prompts, seeds, 20, cfg)

    def found() -> tuple[float, int]:
        with magcache.apply(small.pipe, speedup=1.5) as applied:
            return distance(small.generate(prompts, seeds, 20, cfg), plain), applied.report().mended

    mended, count = found()
    monkeypatch.setattr(Mender, "factors", lambda *_, **__: None)
    assert count > 0 and mended < 0.8 * found()[0]


# What changes while a pipeline samples


def test_guidance_that_ends_in_mid_run_drops_what_is_cached(runs: list[Run]) -> None:
    pipe = WAN21.build()
    inputs = WAN21.inputs(pipe, steps=STEPS)

    def end_guidance(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        if step == 5:
            pipe._guidance_scale = 1.0
        return {}

    with magcache.apply(pipe, speedup=2):
        found = run(pipe, **inputs, callback_on_step_end=end_guidance)
    assert found.isfinite().all()
    reasons = [e.reason for e in runs[0].evaluations]
    assert Reason.NO_RESIDUAL in reasons[6:9]


# Learning


def learned(home: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (home / "learned").glob("*.json")]


def test_a_run_teaches_the_model_that_it_sampled(home: Path) -> None:
    pipe = FLUX.build()
    with magcache.apply(pipe, speedup=2):
        sample_of(pipe)
        (first,) = learned(home)
        sample_of(pipe)
    (second,) = learned(home)
    assert first["runs"] == 1 and second["runs"] == 2
    assert sum(first["weights"]) == 4 and sum(second["weights"]) == 8


def test_a_run_that_failed_teaches_nothing(home: Path) -> None:
    pipe = FLUX.build()

    def fail(_pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        if step == 6:
            raise RuntimeError("out of memory")
        return {}

    with magcache.apply(pipe, speedup=2), pytest.raises(RuntimeError):
        run(pipe, **FLUX.inputs(pipe, steps=STEPS), callback_on_step_end=fail)
    assert not learned(home)


def test_a_broken_file_is_passed_over_and_replaced(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = FLUX.build()
    with magcache.apply(pipe, speedup=2):
        sample_of(pipe)
        (path,) = (home / "learned").glob("*.json")
        path.write_text('{"format": 1, "weights": [1e999]}')
        sample_of(pipe)
    assert "was ignored" in caplog.text and learned(home)[0]["runs"] == 1


# Settings


def test_a_given_calibration_is_used_in_place_of_the_prior(home: Path, runs: list[Run]) -> None:
    pipe = FLUX.build()
    with magcache.apply(pipe, calibrate=True) as applied:
        sample(pipe, FLUX, steps=STEPS)
        calibration = applied.calibration()
    with magcache.apply(pipe, calibration=calibration, error=0.3):
        assert "." in sample(pipe, FLUX, steps=STEPS)[1]
    with magcache.apply(pipe, calibration=calibration, speedup=2):
        assert sample(pipe, FLUX, steps=STEPS)[1].count("#") == 6
    assert not learned(home) and runs[-1].label == calibration.name


def test_an_old_calibration_cannot_be_planned_with(tmp_path: Path) -> None:
    pipe = FLUX.build()
    with magcache.apply(pipe, calibrate=True) as applied:
        sample(pipe, FLUX, steps=STEPS)
        path = applied.calibration().save(tmp_path / "old.json")
    data = json.loads(path.read_text())
    del data["checksum"]
    for measured in data["branches"].values():
        del measured["norms"], measured["correlations"]
    path.write_text(json.dumps({**data, "format": 1}))
    with pytest.raises(CalibrationError, match="no Gram curve to plan from"):
        magcache.apply(pipe, calibration=path, speedup=2)
    with magcache.apply(pipe, calibration=path, threshold=9, retention=0.1):
        assert "." in sample(pipe, FLUX, steps=STEPS)[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speedup": 2, "preset": "flux"}, "a preset has no Gram curve to plan from"),
        ({"speedup": 2, "threshold": 0.1}, "speedup and error replace threshold"),
        ({"speedup": 2, "calibrate": True}, "calibrate=True measures a new curve"),
        ({"speedup": 2, "error": 0.1}, "give either a speedup or an error"),
        ({"speedup": 20}, "speedup must be between 1 and 10, got 20"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Any], message: str) -> None:
    pipe = FLUX.build()
    with pytest.raises(ValueError, match=message):
        magcache.apply(pipe, **settings)
    assert "_diffusers_hook" not in vars(pipe.transformer)
