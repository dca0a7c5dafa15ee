"""Offloading and MagCache, put on and taken off in every order: accelerated in every call.

There is no GPU in most of the places where this runs. accelerate's hooks are put on, taken off and
put on again for "cpu" just as for a GPU; its sequential offload does not run there, so leaves that
give up their weights between two calls stand in for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import diffusers as dfs
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, ModelHook, add_hook_to_module
from diffusers import DiffusionPipeline
from torch import nn

import magcache
from harness import EAGER, PRESETS, reference, sample
from magcache.hosts.diffusers.experts import known_as
from magcache.run import Run
from tiny import TINY, Tiny, experts, run

FLUX, WAN22 = TINY["flux"], TINY["wan2.2_t2v"]
STEPS = 8
CALLS = 3
CPU = torch.device("cpu")
Offload = Callable[[DiffusionPipeline], Any]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAGCACHE_HOME", str(tmp_path))
    return tmp_path


def of_models(pipe: DiffusionPipeline) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def of_leaves(pipe: DiffusionPipeline) -> None:
    for model in experts(pipe):
        add_hook_to_module(model, AlignDevicesHook(CPU, io_same_device=True))
        for leaf in list(model.modules())[1:]:
            if leaf._parameters:
                add_hook_to_module(leaf, Elsewhere(), append=True)


class Elsewhere(ModelHook):
    """Has a module's weights on "meta" between two calls."""

    execution_device = CPU

    def init_hook(self, module: nn.Module) -> nn.Module:
        self.weights_map = dict(module._parameters)
        self.post_forward(module, None)
        return module

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        module._parameters.update(self.weights_map)
        return args, kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        for name, weight in self.weights_map.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(weight.to("meta"), False)
        return output

    def detach_hook(self, module: nn.Module) -> nn.Module:
        module._parameters.update(self.weights_map)
        return module


def of_groups(pipe: DiffusionPipeline) -> None:
    for model in experts(pipe):
        model.enable_group_offload(CPU, CPU, offload_type="block_level", num_blocks_per_group=1)


def by_a_map(pipe: DiffusionPipeline) -> None:
    for model in experts(pipe):
        accelerate.dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)


OFFLOADS = [of_models, of_leaves, of_groups, by_a_map]
RULE: dict[str, Any] = {"preset": "flux", **EAGER}


def outcome(pipe: DiffusionPipeline, tiny: Tiny = FLUX) -> tuple[str, list[float]]:
    latents, schedule = sample(pipe, tiny, steps=STEPS, cfg=False)
    return schedule, latents.flatten().tolist()


def applied_to(pipe: DiffusionPipeline, tiny: Tiny = FLUX) -> Any:
    return magcache.apply(pipe, preset=PRESETS[tiny.name], **EAGER)


def bare(pipe: DiffusionPipeline) -> list[Any]:
    """What could be left on the pipeline's models."""
    names = ("forward", "_old_forward", "_hf_hook")
    models = experts(pipe)
    there = [[vars(model).get(name) is not None for name in names] for model in models]
    hooks = [list(getattr(vars(m).get("_diffusers_hook"), "hooks", ())) for m in models]
    return [type(pipe), [type(model) for model in models], there, hooks]


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("tiny", [FLUX, WAN22], ids=["flux", "two experts"])
@pytest.mark.parametrize("order", ["before", "after", "after a call"])
def test_every_call_is_accelerated_and_nothing_is_left(
    offload: Offload, tiny: Tiny, order: str
) -> None:
    plain, want = outcome(tiny.build(), tiny), tiny.build()
    with applied_to(want, tiny):
        wanted = outcome(want, tiny)
    pipe, alone = tiny.build(), tiny.build()
    offload(alone)
    outcome(alone, tiny)
    if order == "before":
        offload(pipe)
    applied, calls = applied_to(pipe, tiny), 0
    if order == "after a call":
        calls = outcome(pipe, tiny) == wanted
    if order != "before":
        offload(pipe)
    assert [outcome(pipe, tiny) for _ in range(CALLS)] == [wanted] * CALLS
    assert applied.report().skipped == wanted[0].count(".") * (CALLS + calls)
    applied.remove()
    assert bare(pipe) == bare(alone)
    assert outcome(pipe, tiny) == plain


@pytest.mark.parametrize("settings", [RULE, {"speedup": 1.5}], ids=["rule", "forecast"])
def test_applied_and_removed_around_every_call(settings: dict[str, Any]) -> None:
    pipe = FLUX.build()
    of_models(pipe)
    for _ in range(CALLS):
        with magcache.apply(pipe, **settings) as applied:
            run(pipe, **FLUX.inputs(pipe, steps=12, cfg=False))
        assert applied.report().skipped >= 4 and not applied.report().warnings
    pipe.remove_all_hooks()
    assert isinstance(pipe, dfs.FluxPipeline) and type(pipe.transformer) is _kind()


def _kind() -> type:
    return type(FLUX.build().transformer)


def test_offload_is_taken_off_and_put_on_while_magcache_is_on() -> None:
    pipe = FLUX.build()
    of_models(pipe)
    applied = applied_to(pipe)
    wanted = outcome(pipe)
    for change in (DiffusionPipeline.remove_all_hooks, of_models, of_models):
        change(pipe)
        assert outcome(pipe) == wanted
    applied.remove()
    pipe.remove_all_hooks()
    assert outcome(pipe)[0] == "#" * STEPS


def test_forecasting_learns_and_finds_its_notebook_with_and_without_offload(home: Path) -> None:
    for offload in (None, *OFFLOADS):
        pipe = FLUX.build()
        if offload:
            offload(pipe)
        with magcache.apply(pipe, speedup=2):
            run(pipe, **FLUX.inputs(pipe, steps=12, cfg=False))
    assert len(list((home / "learned").glob("*.json"))) == 1


def test_weights_that_sequential_offload_keeps_are_read() -> None:
    pipe = FLUX.build()
    before = known_as([pipe.transformer])
    pipe.enable_sequential_cpu_offload(device="cpu")
    assert {p.device.type for p in pipe.transformer.parameters()} == {"meta"}
    assert isinstance(pipe.transformer.norm_out.linear._hf_hook, AlignDevicesHook)
    assert known_as([pipe.transformer]) == before


def test_every_offloaded_call_can_be_measured() -> None:
    pipe = FLUX.build()
    of_models(pipe)
    found = []
    for _ in range(2):  # as `magcache calibrate --offload` does for two prompts
        with magcache.apply(pipe, calibrate=True) as applied:
            run(pipe, **FLUX.inputs(pipe, steps=4, cfg=False))
            found.append(applied.calibration())
    assert found[0].branches == found[1].branches


def sharing(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """A second pipeline around the same parts."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    other = type(pipe)(**{**pipe.components, "scheduler": scheduler})
    other.set_progress_bar_config(disable=True)
    return other


@pytest.mark.parametrize("offloaded", ["one", "other", "both"])
def test_pipelines_that_share_their_parts(offloaded: str) -> None:
    wanted = outcome(_accelerated(FLUX.build()))
    pipe = FLUX.build()
    other = sharing(pipe)
    for name, each in (("one", pipe), ("other", other)):
        if offloaded in (name, "both"):
            of_models(each)
    applied = applied_to(pipe)
    for _ in range(2):
        assert outcome(pipe) == wanted
        assert outcome(other)[0] == "#" * STEPS
    with applied_to(other) as second:
        assert outcome(other) == outcome(pipe) == wanted
    assert second.report().evaluations == STEPS
    assert applied.report().evaluations == 3 * STEPS
    applied.remove()
    assert type(pipe.transformer) is _kind()
    assert outcome(pipe)[0] == outcome(other)[0] == "#" * STEPS


def _accelerated(pipe: DiffusionPipeline) -> DiffusionPipeline:
    applied_to(pipe)
    return pipe


def test_a_bare_transformer_in_an_offloaded_pipeline() -> None:
    pipe = FLUX.build()
    of_models(pipe)
    with magcache.apply(pipe.transformer, scheduler=pipe.scheduler, **RULE) as applied:
        for _ in range(CALLS):
            run(pipe, **FLUX.inputs(pipe, steps=STEPS, cfg=False))
    assert [each.skipped > 0 for each in applied.report().runs] == [True] * CALLS


def test_hooks_of_torch_see_every_call_once(runs: list[Run]) -> None:
    """Skipped ones too, and not the dry call that a run begins with."""
    pipe, seen = FLUX.build(), []
    pipe.transformer.register_forward_hook(lambda *_: seen.append(1))
    for settings in (RULE, {"speedup": 2}):
        seen.clear()
        with magcache.apply(pipe, **settings):
            run(pipe, **FLUX.inputs(pipe, steps=12, cfg=False))
        assert len(seen) == 12 and runs[-1].skipped > 0


def test_a_model_is_not_patched_between_two_calls() -> None:
    pipe, there = FLUX.build(), []

    def look(pipe: Any, *_: Any) -> dict[str, Any]:
        there.append("forward" in vars(pipe.transformer))
        return {}

    with applied_to(pipe):
        run(pipe, **FLUX.inputs(pipe, steps=4, cfg=False), callback_on_step_end=look)
    assert there == [False] * 4


def test_an_uncached_run_is_as_before(home: Path) -> None:
    pipe = FLUX.build()
    of_models(pipe)
    applied_to(pipe).remove()
    assert torch.equal(
        run(pipe, **FLUX.inputs(pipe, steps=10, cfg=False)),
        reference(FLUX, steps=10, cfg=False).latents,
    )
