"""MagCache beside other nodes on the same model, and several times on one."""

import importlib
import logging
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from tiny_models import TINY, count_blocks, sample
from watch import STEPS, cached, check, difference, settings_of, watching

from magcache.hosts.comfyui.nodes.calibration import MagCacheCalibration
from magcache.hosts.comfyui.nodes.magcache import MagCache
from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed

FLUX, WAN = TINY["flux"], TINY["wan_t2v"]


def lora(model: Any, key: str, strength: float = 1.0) -> Any:
    """A clone whose weight `key` is patched, as LoRA loaders do it."""
    model = model.clone()
    weight = model.model.state_dict()[key]
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
    assert model.add_patches({key: ("diff", (0.1 * change,))}, strength) == [key]
    return model


def node(module: str, name: str, model: Any, **inputs: Any) -> Any:
    """What a node of ComfyUI's own makes of a model."""
    execute = getattr(importlib.import_module(f"comfy_extras.{module}"), name).execute
    return execute(model, **inputs).result[0]


def skip_layers(model: Any, end: float = 1.0) -> Any:
    layers = {"double_layers": "1", "single_layers": "0"}
    return node(
        "nodes_slg", "SkipLayerGuidanceDiT", model, scale=2.0, start_percent=0.0,
        end_percent=end, **layers,
    )  # fmt: skip


def windows(model: Any, schedule: str) -> Any:
    """Windows of 3 frames over the 6 of a latent."""
    sizes = {"context_length": 9, "context_overlap": 5, "context_stride": 1}
    return node(
        "nodes_context_windows", "WanContextWindowsManualNode", model, **sizes,
        context_schedule=schedule, closed_loop=False, fuse_method="pyramid",
        **({"freenoise": False} if "freenoise" in _window_inputs() else {}),
    )  # fmt: skip


def _window_inputs() -> str:
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    return str(ContextWindowsManualNode.execute.__func__.__code__.co_varnames)


def test_a_lora_before_or_after() -> None:
    model, key = WAN.build(), "diffusion_model.blocks.1.self_attn.q.weight"
    plain, patched = sample(model, WAN, STEPS), sample(lora(model, key), WAN, STEPS)
    assert difference(patched, plain) > 0.001
    check(lora(model, key), WAN)
    before = sample(cached(lora(model, key), WAN).model, WAN, STEPS)
    after = sample(lora(cached(model, WAN).model, key), WAN, STEPS)
    assert torch.equal(before, after)
    assert torch.equal(sample(model, WAN, STEPS), plain)


@pytest.mark.parametrize("end", [1.0, 0.5])
def test_skip_layer_guidance_is_a_branch_of_its_own_while_it_lasts(end: float) -> None:
    run = check(skip_layers(FLUX.build(), end), FLUX)
    assert [len(e.computed) for e in run.evaluations[:2]] == [2, 2]
    assert len(run.evaluations[-1].computed) == (2 if end == 1 else 1)


def test_skip_layer_guidance_beside_separate_calls_keeps_its_residual_apart() -> None:
    """Its call has the same condition and the same shape as the positive one's."""
    run = check(skip_layers(FLUX.build()), FLUX, conds=FLUX.conds(tokens=7))
    assert len(run.evaluations[0].computed) == 3


def test_context_windows_are_branches_of_their_own() -> None:
    latent = torch.zeros(1, 16, 6, 8, 8)
    run = check(windows(WAN.build(), "standard_static"), WAN, latent=latent)
    assert len(run.evaluations[0].computed) > 2


def test_windows_that_move_are_computed() -> None:
    """A residual holds for its own frames only, so nothing is reused across windows."""
    latent, model = torch.zeros(1, 16, 6, 8, 8), windows(WAN.build(), "standard_uniform")
    windows_of: list[list[str]] = []
    watched = cached(model, WAN)

    def note(executor: Any, *args: Any, **kwargs: Any) -> Any:
        if len(windows_of) < len(counts.evaluations):
            windows_of.append([])
        windows_of[-1].append(str(args[5]["context_window"].index_list))
        return executor(*args, **kwargs)

    with count_blocks(watched.model, WAN) as counts:
        watched.model.add_wrapper_with_key("apply_model", "note", note)
        sample(watched.model, WAN, STEPS, latent=latent)
    assert len({tuple(each) for each in windows_of}) > 1
    report = watched.samplings[-1].report()
    assert [note for note in report.warnings if "windows" in note] == [
        "the context windows move from step to step, so little can be skipped: choose the context "
        "schedule standard_static, or use the node MagCache"
    ]
    for step in range(1, STEPS):
        for window, (_, blocks) in zip(
            windows_of[step], counts.evaluations[step].calls, strict=True
        ):
            assert blocks or window in windows_of[step - 1]


@pytest.mark.parametrize("calibrated", [False, True])
def test_target_speed_predicts_whole_latents_where_windows_move(
    calibrated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    latent, model = torch.zeros(1, 16, 6, 8, 8), WAN.build()
    if calibrated:
        sample(MagCacheCalibration().apply(model, "auto")[0], WAN, 12)
    fast = watching(
        MagCacheTargetSpeed().apply(windows(model, "standard_uniform"), 2.0, "automatic")[0]
    )
    sample(fast.model, WAN, 12, latent=latent)
    assert fast.run.skipped == 6 and not fast.run.warnings


def test_what_changes_in_mid_run_is_not_stored_as_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of moving windows two evaluations of 12 were stored, as a measurement of 12 steps."""
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    latent, model = torch.zeros(1, 16, 6, 8, 8), WAN.build()
    for schedule, files in (("standard_uniform", 0), ("standard_static", 1)):
        measured = MagCacheCalibration().apply(windows(model, schedule), "auto")[0]
        sample(measured, WAN, 12, latent=latent)
        assert len([*tmp_path.rglob("*.json")]) == files
        warnings = settings_of(measured).watch.last.warnings
        assert any("calls changed during the run" in note for note in warnings) is (files == 0)


@pytest.mark.parametrize("first", ["MagCache", "other"])
@pytest.mark.parametrize("node_of", ["MagCache", "MagCacheCalibration"])
@pytest.mark.parametrize("other", ["EasyCache", "LazyCache"])
def test_beside_another_cache_magcache_steps_aside(
    other: str, node_of: str, first: str, caplog: pytest.LogCaptureFixture, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The result is the other's own; MagCache keeps nothing, and says who does the work."""
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    model = FLUX.build()

    def theirs(model: Any) -> Any:
        inputs = {"start_percent": 0.1, "end_percent": 0.95, "verbose": False}
        return node("nodes_easycache", f"{other}Node", model, reuse_threshold=0.5, **inputs)

    def ours(model: Any) -> Any:
        if node_of == "MagCache":
            return cached(model, FLUX).model
        return MagCacheCalibration().apply(model, "auto")[0]

    alone = sample(theirs(model), FLUX, STEPS)
    assert difference(alone, sample(model, FLUX, STEPS)) > 0  # the other does skip
    both = theirs(ours(model)) if first == "MagCache" else ours(theirs(model))
    with caplog.at_level(logging.INFO, "magcache"):
        assert torch.equal(sample(both, FLUX, STEPS), alone)
    (warning,) = [record for record in caplog.records if record.name == "magcache"]
    assert warning.levelno == logging.WARNING
    said = f"runs uncached: {other} is on the same model and does the work; remove one"
    assert said in warning.getMessage()
    assert not [*tmp_path.rglob("*.json")]


def test_once_the_other_cache_is_removed_magcache_works_again() -> None:
    model = FLUX.build()
    watched = cached(model, FLUX)
    inputs = {"reuse_threshold": 0.5, "start_percent": 0.1, "end_percent": 0.95, "verbose": False}
    sample(node("nodes_easycache", "EasyCacheNode", watched.model, **inputs), FLUX, STEPS)
    expected = sample(cached(model, FLUX).model, FLUX, STEPS)
    assert torch.equal(sample(watched.model, FLUX, STEPS), expected)
    assert watched.run.skipped > 0


def test_two_samplers_one_after_the_other() -> None:
    """The second, at another size, is as if the first had not been."""
    model = WAN.build()
    fresh = sample(cached(model, WAN).model, WAN, STEPS)
    watched = cached(model, WAN)
    sample(watched.model, WAN, 6, latent=torch.zeros(1, 16, 3, 8, 4))
    assert torch.equal(sample(watched.model, WAN, STEPS), fresh)
    assert torch.equal(sample(watched.model, WAN, STEPS), fresh)


def test_two_branches_of_a_workflow_have_their_own_settings() -> None:
    model = WAN.build()
    little, much = cached(model, WAN, threshold=0.005), cached(model, WAN, max_skip=3)
    alone = [sample(each.model, WAN, STEPS) for each in (little, much)]
    assert little.run.skipped < much.run.skipped
    again = [sample(each.model, WAN, STEPS) for each in (much, little)]
    assert torch.equal(again[0], alone[1]) and torch.equal(again[1], alone[0])


def test_of_two_nodes_in_a_row_the_later_one_is_in_force() -> None:
    model = WAN.build()
    watched = cached(cached(model, WAN, threshold=0.01).model, WAN, max_skip=2)
    assert settings_of(watched.model).asked.max_skip == 2
    output = sample(watched.model, WAN, STEPS)
    assert len(watched.run.evaluations) == STEPS  # each counted once
    assert torch.equal(output, sample(cached(model, WAN, max_skip=2).model, WAN, STEPS))


def test_a_bypassed_node_leaves_the_model_as_it_was() -> None:
    model = WAN.build()
    before, wrappers = sample(model, WAN, STEPS), str(model.wrappers)
    options = str(model.model_options)
    sample(MagCache().apply(model, "auto", 0.3, 0.1, 3, 0, -1)[0], WAN, STEPS)
    assert torch.equal(sample(model, WAN, STEPS), before)
    assert (str(model.wrappers), str(model.model_options)) == (wrappers, options)
