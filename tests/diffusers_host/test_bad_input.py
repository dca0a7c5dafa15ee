"""Wrong or unlucky input, each with an answer that says what to do."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers as dfs
import pytest
import torch
from torch import Tensor, nn

import magcache
from harness import EAGER, FAMILIES, counted, reference, sample
from magcache.run import Run
from tiny import TINY, Tiny, run

FLUX, WAN, WAN22 = TINY["flux"], TINY["wan2.1_t2v"], TINY["wan2.2_t2v"]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("tiny", FAMILIES)
def test_a_preset_of_another_model(tiny: Tiny) -> None:
    pipe = tiny.build()
    wrong = "omnigen2_t2i"
    kind = type(pipe.transformer).__name__
    with pytest.raises(ValueError, match=rf"omnigen2_t2i is for omnigen2.*\({kind}\)"):
        magcache.apply(pipe, preset=wrong, max_skip=1, retention=0.2)
    assert torch.equal(run(pipe, **tiny.inputs(pipe, steps=2)), reference(tiny, steps=2).latents)


def test_a_wrong_preset_leaves_the_earlier_one_on() -> None:
    pipe = FLUX.build()
    with magcache.apply(pipe, preset="flux", **EAGER):
        with pytest.raises(ValueError, match=r"its presets: .*flux, flux_kontext"):
            magcache.apply(pipe, preset="chroma")
        assert "." in sample(pipe, FLUX)[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "fluks"}, "no preset 'fluks'; did you mean flux"),
        ({}, "give a preset .*flux.*, a calibration, or a speedup like 2"),
        ({"preset": "flux", "calibration": "a.json"}, "give a preset .*, a calibration, or"),
        ({"preset": "flux", "calibrate": True}, "calibrate=True measures a new curve"),
        ({"preset": "flux", "threshold": -0.1}, "threshold must be 0 or more, got -0.1"),
        ({"preset": "flux", "threshold": float("nan")}, "threshold must be 0 or more, got nan"),
        ({"preset": "flux", "max_skip": 1.5}, "max_skip must be a whole number"),
        ({"preset": "flux", "retention": 1.5}, "retention must be between 0 and 1, got 1.5"),
        ({"preset": "flux", "start_step": 9, "end_step": 5}, "lies before start_step 9"),
        ({"preset": "flux", "store": "disk"}, 'store must be "device" or "offload"'),
        ({"preset": "flux", "dtype": torch.int8}, "cannot be kept as torch.int8"),
        ({"calibration": "no/such/file.json"}, "there is no calibration file no/such/file.json"),
    ],
    ids=lambda value: None if isinstance(value, str) else "+".join(value) or "nothing",
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    pipe = FLUX.build()
    with pytest.raises(ValueError, match=message):
        magcache.apply(pipe, **settings)
    assert "_diffusers_hook" not in vars(pipe.transformer)
    assert type(pipe) is dfs.FluxPipeline


def test_targets() -> None:
    pipe = FLUX.build()
    with pytest.raises(TypeError, match="a bare transformer needs scheduler="):
        magcache.apply(pipe.transformer, preset="flux")
    with pytest.raises(TypeError, match="str is neither a pipeline with a transformer nor"):
        magcache.apply("flux", preset="flux")
    with pytest.raises(TypeError, match="neither a pipeline"):
        magcache.remove(SimpleNamespace(vae=pipe.transformer))


def test_one_curve_for_two_experts() -> None:
    with pytest.raises(ValueError, match=r"wan2.1_t2v_14B is for one .* 2 experts"):
        magcache.apply(WAN22.build(), preset="wan2.1_t2v_14B")


# Calibrations


def calibrated(tiny: Tiny, path: Path) -> Path:
    pipe = tiny.build()
    with magcache.apply(pipe, calibrate=True) as applied:
        with pytest.raises(magcache.CalibrationError, match="nothing was measured"):
            applied.calibration()
        run(pipe, **tiny.inputs(pipe, steps=10))
    return applied.calibration().save(path)


def test_a_calibration_of_another_model(tmp_path: Path) -> None:
    path = calibrated(FLUX, tmp_path / "flux.json")
    message = "was measured on FluxTransformer2DModel, but the model is WanTransformer3DModel"
    with pytest.raises(magcache.CalibrationError, match=message):
        magcache.apply(WAN.build(), calibration=path)
    pipe = FLUX.build()
    with magcache.apply(pipe, calibration=path, **EAGER):
        assert "." in sample(pipe, FLUX)[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "file.json is not a calibration file"),
        ('{"format": 1, "model": "X"}', "file.json: branches is missing"),
        ('{"format": 99}', "calibration format 99, but this MagCache reads up to 3: update"),
    ],
    ids=["cut off", "broken", "newer"],
)
def test_a_calibration_file_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(magcache.CalibrationError, match=message):
        magcache.apply(FLUX.build(), calibration=path)
    assert path.read_text() == content


def test_a_calibration_of_two_experts_has_a_part_for_each(tmp_path: Path, runs: list[Run]) -> None:
    path = calibrated(WAN22, tmp_path / "wan.json")
    assert json.loads(path.read_text())["switch_at"] == pytest.approx(0.86, abs=0.04)
    pipe = WAN22.build()
    with magcache.apply(pipe, calibration=path, **EAGER) as applied:
        schedule = sample(pipe, WAN22)[1]
    first, second = (run.decider.curves["uncond"] for run in runs[-2:])
    assert (*first.positions, *second.positions) == pytest.approx(reference(WAN22).sigmas)
    assert applied.report().schedule.replace(" ", "") == schedule and "." in schedule


# Models that do not fit


class Odd(nn.Module):
    """A transformer of which nothing is known."""

    def __init__(self, **lists: nn.Module) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        for name, module in lists.items():
            setattr(self, name, module)

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        for stage in self.stages:
            hidden_states = stage(hidden_states)
        return hidden_states * (1 + timestep)


class OddPipeline:
    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer
        self.scheduler = dfs.FlowMatchEulerDiscreteScheduler()

    @torch.no_grad()
    def __call__(self, steps: int = 10) -> Tensor:
        latents = torch.ones(1, 3, 4)
        self.scheduler.set_timesteps(steps)
        for time in self.scheduler.timesteps:
            velocity = self.transformer(latents, time / 1000)
            latents = self.scheduler.step(velocity, time, latents, return_dict=False)[0]
        return latents


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        ({}, "the block list and head of Odd are unknown"),
        ({"blocks": nn.ModuleList([nn.Identity()])}, "block list and head of Odd are"),
        ({"blocks": nn.ModuleList(), "norm_out": nn.Identity()}, "block list and head of Odd are"),
    ],
    ids=["no list", "no head", "empty list"],
)
def test_an_unknown_transformer_runs_uncached_with_one_warning(
    lists: dict[str, nn.Module], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = OddPipeline(Odd(**lists))
    own = pipe()
    with magcache.apply(pipe, preset="flux") as applied:
        assert torch.equal(pipe(), own) and torch.equal(pipe(), own)
    (warning,) = warnings_of(caplog)
    assert reason in warning and "runs uncached" in warning
    assert reason in str(applied.report())


def test_an_unknown_transformer_with_a_list_and_a_head_of_no_use(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pipe = OddPipeline(Odd(blocks=nn.ModuleList([nn.Identity()]), norm_out=nn.Identity()))
    own = pipe()
    with magcache.apply(pipe, preset="flux") as applied:
        assert torch.equal(pipe(), own) and torch.equal(pipe(), own)
    (warning,) = warnings_of(caplog)
    assert "the rest of this run is uncached: the head was not called" in warning
    assert warning.split(": ", 1)[1] in applied.report().warnings
    assert applied.report().skipped == 0


def test_an_unknown_transformer_that_is_built_as_others_are() -> None:
    class Plain(Odd):
        def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
            for block in self.blocks:
                hidden_states = hidden_states + block(hidden_states)
            return self.head(hidden_states) * (1 + timestep)

    blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
    pipe = OddPipeline(Plain(blocks=blocks, head=nn.Linear(4, 4)))
    with magcache.apply(pipe, preset="flux", **EAGER) as applied:
        pipe()
    assert applied.report().schedule == "##..#...#."


def test_a_known_class_without_its_lists(caplog: pytest.LogCaptureFixture) -> None:
    pipe = FLUX.build()
    del pipe.transformer.norm_out
    magcache.apply(pipe, preset="flux")
    (warning,) = warnings_of(caplog)
    assert "FluxTransformer2DModel has no head named norm_out" in warning


def test_a_scheduler_without_falling_sigmas(caplog: pytest.LogCaptureFixture) -> None:
    pipe = FLUX.build()
    inputs = FLUX.inputs(pipe) | {"sigmas": [1.0, 0.5, 0.8, 0.2]}
    own = run(pipe, **inputs, max_sequence_length=8)
    with magcache.apply(pipe, preset="flux") as applied:
        inputs["generator"].manual_seed(0)
        assert torch.equal(run(pipe, **inputs), own)
    (warning,) = warnings_of(caplog)
    assert "FlowMatchEulerDiscreteScheduler cannot be followed" in warning
    assert "must fall" in warning and "cannot be followed" in str(applied.report())


# What goes wrong while sampling


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_few_steps_are_computed_by_recommended_settings_and_the_report_says_so(steps: int) -> None:
    pipe = FLUX.build()
    with magcache.apply(pipe, preset="flux") as applied:
        _, schedule = sample(pipe, FLUX, steps=steps)
    assert schedule == applied.report().schedule == "#" * steps
    assert f"{steps} steps: below 9, everything is computed" in str(applied.report())


def test_settings_typed_in_skip_in_few_steps_too_and_the_report_says_so() -> None:
    pipe = FLUX.build()
    with magcache.apply(pipe, preset="flux", **EAGER) as applied:
        _, schedule = sample(pipe, FLUX, steps=8)
    assert "." in schedule
    assert "8 steps: too few for the rule, so the difference is visible" in str(applied.report())


def test_a_broken_residual_is_dropped_and_the_next_evaluation_computed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pipe = WAN.build()
    calls = iter(range(1000))
    kept: list[Tensor] = []

    def break_once(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        return output * torch.nan if next(calls) == 2 * 2 + 1 else None  # third, uncond

    def undo(_: Any, step: int, __: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
        kept.append(values["latents"])
        return {"latents": kept[1]} if step == 2 else {}

    pipe.scheduler = dfs.FlowMatchEulerDiscreteScheduler(shift=3.0)  # keeps nothing of the past
    pipe.transformer.blocks[-1].register_forward_hook(break_once)
    settings = {**EAGER, "retention": 0.3}
    with (
        magcache.apply(pipe, preset="wan2.1_t2v_14B", **settings) as applied,
        counted(pipe, WAN) as blocks,
    ):
        latents = run(pipe, **WAN.inputs(pipe, steps=12), callback_on_step_end=undo)
    assert kept[2].isnan().any() and latents.isfinite().all()
    assert blocks.schedule(2) == "####...#...#" == applied.report().schedule
    (warning,) = warnings_of(caplog)
    assert "NaN or Inf" in warning and warning.split(": ", 1)[1] in str(applied.report())


def test_an_interrupt_stops_and_is_reported() -> None:
    pipe = FLUX.build()

    def stop(pipe: Any, step: int, _: Any, __: Any) -> dict:
        pipe._interrupt = step == 4
        return {}

    with magcache.apply(pipe, preset="flux", **EAGER) as applied:
        run(pipe, **FLUX.inputs(pipe), callback_on_step_end=stop)
        assert applied.report().evaluations == 5
        run(pipe, **FLUX.inputs(pipe))
    assert [len(run.evaluations) for run in applied.report().runs] == [5, 10]
