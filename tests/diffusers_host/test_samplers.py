"""Samplers, parts of a trajectory, and loops written by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import diffusers as dfs
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

import magcache
from harness import EAGER, PRESETS, build, counted, distance, reference, sample
from magcache.curves import presets
from magcache.curves.magnitude import Trajectory
from magcache.decide import Reason, rule_of
from magcache.run import Run
from tests.toys import scheduled
from tiny import SCHEDULERS, TINY, UNSUPPORTED, run

OWN = {name: "unipc" if name.startswith("wan") else "euler" for name in TINY}  # tested elsewhere
PAIRS = [(n, s) for n in TINY for s in SCHEDULERS if (n, s) not in UNSUPPORTED and s != OWN[n]]
MILD = {**EAGER, "max_skip": 1, "retention": 0.3}


@pytest.mark.parametrize(("name", "scheduler"), PAIRS)
def test_each_evaluation_of_each_sampler_is_decided(name: str, scheduler: str) -> None:
    tiny, preset = TINY[name], presets.load(PRESETS[name])
    uncached = reference(tiny, scheduler, steps=8)
    pipe = build(tiny, scheduler)
    with magcache.apply(pipe, preset=preset, **MILD) as applied:
        latents, schedule = sample(pipe, tiny, steps=8)
    evaluations = 15 if scheduler == "heun" else 8  # Heun: two a step, but one in the last
    assert len(schedule) == applied.report().evaluations == evaluations
    trajectory = Trajectory(uncached.sigmas)
    expected = scheduled(rule_of(preset, **MILD), preset.curves, trajectory, uncached.sigmas)
    assert schedule == str(expected) and schedule.count(".") >= 2
    steps = [e.step for r in applied.report().runs for e in r.evaluations]
    assert steps == [i // 2 if scheduler == "heun" else i for i in range(evaluations)]
    assert distance(latents, uncached.latents) < 0.1


# Parts of a trajectory


def flux_image_to_image() -> DiffusionPipeline:
    parts = TINY["flux_kontext"].build().components
    pipe = dfs.FluxImg2ImgPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux_inputs(pipe: DiffusionPipeline, **options: Any) -> dict[str, Any]:
    inputs = TINY["flux"].inputs(pipe, **options)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    return {**inputs, "image": image}


def wan_video_to_video() -> DiffusionPipeline:
    parts = TINY["wan2.1_t2v"].build().components
    vae = TINY["wan2.1_vace"].build().vae
    names = ("tokenizer", "text_encoder", "transformer", "scheduler")
    pipe = dfs.WanVideoToVideoPipeline(**{n: parts[n] for n in names}, vae=vae)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def wan_inputs(pipe: DiffusionPipeline, **options: Any) -> dict[str, Any]:
    inputs = TINY["wan2.1_t2v"].inputs(pipe, **options)
    del inputs["num_frames"]
    video = torch.rand(1, 5, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    return {**inputs, "video": video}


PARTS = [
    pytest.param(flux_image_to_image, flux_inputs, "flux", id="FLUX, begin_index set"),
    pytest.param(wan_video_to_video, wan_inputs, "wan2.1_t2v_14B", id="Wan, begin_index None"),
]


@pytest.mark.parametrize(("make", "inputs", "preset"), PARTS)
def test_retention_protects_only_the_beginning_of_the_whole_trajectory(
    make: Callable, inputs: Callable, preset: str, runs: list[Run]
) -> None:
    pipe = make()
    schedules = []
    for strength in (1.0, 0.5):
        arguments = inputs(pipe, steps=12) | {"strength": strength}
        with magcache.apply(pipe, preset=preset, **{**EAGER, "retention": 0.5}) as applied:
            run(pipe, **arguments)
        (record,) = applied.report().runs
        schedules.append(applied.report().schedule)
        begin = 0 if strength == 1 else 6
        assert [e.sigma for e in record.evaluations] == pipe.scheduler.sigmas[begin:12].tolist()
        assert runs[-1].decider.course.trajectory.steps == 12
        assert runs[-1].decider.course.steps == 12 - begin
    assert schedules[0][:6] == "######" and "." in schedules[0]
    assert schedules[1] == "#...#."
    reasons = [e.reason for e in record.evaluations]
    assert Reason.RETENTION not in reasons


@pytest.mark.parametrize(("make", "inputs", "preset"), PARTS)
def test_a_part_of_a_trajectory_without_skipping_is_exact(
    make: Callable, inputs: Callable, preset: str
) -> None:
    pipe = make()
    arguments = [inputs(pipe, steps=6) | {"strength": 0.5} for _ in range(2)]
    own = run(pipe, **arguments[0])
    with magcache.apply(pipe, preset=preset, max_skip=9, threshold=9, retention=1.0):
        assert torch.equal(run(pipe, **arguments[1]), own)


# A transformer in a loop of one's own


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def flux_call(model: nn.Module, latents: Tensor, time: Tensor) -> Tensor:
    return model(
        hidden_states=latents,
        timestep=(time / 1000).expand(1),
        guidance=torch.ones(1),
        pooled_projections=noise(1, 1, 8),
        encoder_hidden_states=noise(2, 1, 8, 8),
        txt_ids=torch.zeros(8, 3),
        img_ids=torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
        return_dict=False,
    )[0]


def wan_call(model: nn.Module, latents: Tensor, time: Tensor) -> Tensor:
    return model(latents, time.expand(1), noise(2, 1, 8, 8), return_dict=False)[0]


LOOPS = [
    pytest.param("flux", flux_call, (1, 16, 16), id="FLUX, by keyword"),
    pytest.param("wan2.1_t2v", wan_call, (1, 16, 2, 8, 8), id="Wan, by position"),
]


def loop(
    model: nn.Module, scheduler: Any, call: Callable, shape: tuple, *, step: bool, begin: int = 0
) -> Iterator[Tensor]:
    """Euler, by the scheduler or by hand; yields the latents after each step."""
    latents = noise(3, *shape)
    scheduler.set_timesteps(10)
    for time, now, after in zip(
        scheduler.timesteps[begin:],
        scheduler.sigmas[begin:],
        scheduler.sigmas[begin + 1 :],
        strict=False,
    ):
        velocity = call(model, latents, time)
        if step:
            latents = scheduler.step(velocity, time, latents, return_dict=False)[0]
        else:
            latents = latents + (after - now) * velocity
        yield latents


def test_a_loop_that_starts_again_without_set_timesteps() -> None:
    pipe = TINY["flux"].build()
    scheduler = dfs.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(10)
    with magcache.apply(pipe.transformer, preset="flux", scheduler=scheduler, **EAGER) as applied:
        for count in (6, 10, 10):
            latents = noise(3, 1, 16, 16)
            for time in scheduler.timesteps[:count]:
                latents = latents - 0.1 * flux_call(pipe.transformer, latents, time)
    whole = "##..#...#."
    assert applied.report().schedule == f"{whole[:6]} {whole} {whole}"


def test_a_loop_that_tries_again_after_running_out_of_memory(runs: list[Run]) -> None:
    """The evaluation that failed begins a new run, and nothing is kept of the old one."""
    pipe, computed = TINY["flux"].build(), itertools.count(1)
    scheduler = dfs.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(10)

    def fail(*_: Any) -> None:
        if next(computed) == 3:
            raise torch.OutOfMemoryError

    pipe.transformer.single_transformer_blocks[1].register_forward_pre_hook(fail)
    with magcache.apply(pipe.transformer, preset="flux", scheduler=scheduler, **EAGER) as applied:
        for time in scheduler.timesteps:
            try:
                flux_call(pipe.transformer, noise(3, 1, 16, 16), time)
            except torch.OutOfMemoryError:
                assert runs[-1].cache.bytes_held == 0
                flux_call(pipe.transformer, noise(3, 1, 16, 16), time)
    assert applied.report().schedule == "##..# #...#."


def last(steps: Iterator[Tensor]) -> Tensor:
    return list(steps)[-1]


@pytest.mark.parametrize("step", [True, False], ids=["scheduler.step", "own update"])
@pytest.mark.parametrize(("name", "call", "shape"), LOOPS)
def test_a_loop_written_by_hand(
    name: str, call: Callable, shape: tuple, step: bool, runs: list[Run]
) -> None:
    tiny = TINY[name]
    pipe = tiny.build()
    model, scheduler = pipe.transformer, dfs.FlowMatchEulerDiscreteScheduler()
    own = last(loop(model, scheduler, call, shape, step=step))
    with magcache.apply(model, preset=PRESETS[name], scheduler=scheduler, retention=1.0):
        assert torch.equal(last(loop(model, scheduler, call, shape, step=step)), own)
    applied = magcache.apply(model, preset=PRESETS[name], scheduler=scheduler, **EAGER)
    with counted(pipe, tiny) as blocks:
        first = last(loop(model, scheduler, call, shape, step=step))
    expected = str(
        scheduled(
            rule_of(presets.load(PRESETS[name]), **EAGER),
            presets.load(PRESETS[name]).curves,
            Trajectory(tuple(scheduler.sigmas[:10].tolist())),
        )
    )
    assert blocks.schedule() == applied.report().schedule == expected
    assert distance(first, own) < 0.1
    # A loop that is given up in the middle leaves nothing to the next, nor does an img2img one.
    for steps in (loop(model, scheduler, call, shape, step=step) for _ in range(2)):
        for _ in zip(range(4), steps, strict=False):
            pass
    last(loop(model, scheduler, call, shape, step=step, begin=5))
    (part,) = list(applied.report().runs)[3:]
    assert part.evaluations[0].sigma == scheduler.sigmas[5]
    assert torch.equal(last(loop(model, scheduler, call, shape, step=step)), first)
    assert runs[-1].cache.bytes_held == 0
    applied.remove()
    assert torch.equal(last(loop(model, scheduler, call, shape, step=step)), own)
    assert "_diffusers_hook" not in vars(model) and "forward" not in vars(model)
