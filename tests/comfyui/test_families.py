"""Every model type on a tiny random model of its family, in a real ComfyUI."""

import gc
import logging
import weakref
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from fidelity import fidelity
from tiny_models import TEXT_TOKENS, TINY, Tiny, count_blocks, sample, sample_at
from torch import nn

from magcache.blocks.cache import ResidualCache
from magcache.curves import Calibration, presets
from magcache.curves.magnitude import MagnitudeCurve, Trajectory
from magcache.decide import Decider, rule_of
from magcache.doctor.tiny import ALL
from magcache.hosts.comfyui import sampling as host
from magcache.hosts.comfyui.models import FAMILIES, MODEL_TYPES
from magcache.hosts.comfyui.nodes.calibration import MagCacheCalibration
from magcache.hosts.comfyui.nodes.magcache import MagCache
from tests.calibrations import ratios_of, sigmas_of, steps_of, switch_of
from tests.toys import dry_calls, scheduled

FITTING = {model_type: tiny.name for tiny in ALL for model_type in tiny.types}
"""The tiny model of each model type."""
SINGLE = [name for name in MODEL_TYPES if not name.startswith(("wan2.2_t2v", "wan2.2_i2v"))]
EXPERTS = [name for name in MODEL_TYPES if name not in SINGLE]
EVERY = list(TINY)


def tiny_of(model_type: str) -> Tiny:
    name = FITTING[model_type]
    if name not in TINY:
        pytest.skip(f"this ComfyUI has no {name}")
    return TINY[name]


def preset_of(model_type: str) -> Calibration:
    return presets.load(MODEL_TYPES[model_type].preset)


def magcache(model: Any, model_type: str, **changes: Any) -> Any:
    """The node's output, with its preset's recommended settings if nothing is changed."""
    widgets = {
        "magcache_thresh": 0.2, "retention_ratio": 0.1, "magcache_K": 3, "start_step": 0,
        "end_step": -1, "recommended": not changes,
    }  # fmt: skip
    return MagCache().apply(model, model_type, **{**widgets, **changes})[0]


def indexed_rule(preset: Calibration, steps: range) -> str:
    """The published rule on the published list, by step index, for a run of `steps`."""
    total, pattern = steps_of(preset), ""
    protected = int(total * preset.retention)
    drift: dict[str, list[float]] = {}
    for step in steps:
        fixed = preset.refresh and (step - 1) / total < preset.refresh <= step / total
        compute = step == steps[0] or step < protected or bool(fixed)
        for branch, ratios in ratios_of(preset).items():
            product, error, skipped = drift.get(branch, (1.0, 0.0, 0))
            product *= ratios[step]
            error, skipped = error + abs(1 - product), skipped + 1
            drift[branch] = [product, error, skipped]
            compute |= error > preset.threshold or skipped > preset.max_skip
        if compute:
            drift = {}
        pattern += "#" if compute else "."
    return pattern


def own_sigmas(model: Any, steps: int, scheduler: str = "simple") -> list[float]:
    model_sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(model_sampling, scheduler, steps).tolist()


def test_every_model_type_has_a_tiny_model() -> None:
    assert {*FITTING} == {*MODEL_TYPES}, "name it in the `types` of one in magcache/doctor/tiny"


@pytest.mark.parametrize("model_type", SINGLE)
def test_the_lists_own_schedule_gives_the_published_decisions(model_type: str) -> None:
    tiny, preset = tiny_of(model_type), preset_of(model_type)
    model = tiny.build()
    accelerated = magcache(model, model_type)
    with count_blocks(accelerated, tiny) as counts:
        if sigmas_of(preset):
            sample_at(accelerated, tiny, torch.tensor([*sigmas_of(preset), 0.0]))
        else:
            sample(accelerated, tiny, steps_of(preset))
    assert str(counts) == indexed_rule(preset, range(steps_of(preset)))
    assert counts.skipped > 0
    depth = len(tiny.blocks(model))
    for evaluation in counts.evaluations:
        assert [kinds for kinds, _ in evaluation.calls] == [(1, 0)]
        assert evaluation.blocks in (0, depth)


@pytest.mark.parametrize("steps", [13, 31])
@pytest.mark.parametrize("model_type", SINGLE)
def test_at_other_step_counts_the_planned_evaluations_are_skipped(
    model_type: str, steps: int
) -> None:
    tiny, preset = tiny_of(model_type), preset_of(model_type)
    model = tiny.build()
    sigmas = own_sigmas(model, steps)
    changes = {"magcache_thresh": 0.2, "retention_ratio": 0.2, "magcache_K": 3}
    rule = rule_of(preset, threshold=0.2, retention=0.2, max_skip=3)
    expected = scheduled(rule, preset.curves, Trajectory(tuple(sigmas[:-1])))
    accelerated = magcache(model, model_type, **changes)
    with count_blocks(accelerated, tiny) as counts:
        sample(accelerated, tiny, steps)
    assert str(counts) == str(expected)
    assert counts.skipped > 0


@pytest.mark.parametrize("name", EVERY)
def test_texts_of_two_lengths_are_decided_together(name: str) -> None:
    """ComfyUI then calls the model once a condition."""
    tiny = TINY[name]
    model = tiny.build()
    accelerated = magcache(model, "auto", magcache_thresh=0.3, magcache_K=2)
    with count_blocks(accelerated, tiny) as counts:
        sample(accelerated, tiny, 8, conds=tiny.conds(model, tokens=TEXT_TOKENS - 1))
    depth = len(tiny.blocks(model))
    assert counts.skipped > 0
    for evaluation in counts.evaluations:
        if len(evaluation.calls) == 2:
            assert (evaluation.of(0), evaluation.of(1)) in ((0, 0), (depth, depth))


@pytest.mark.parametrize("changes", [{"magcache_thresh": 0.0}, {"magcache_K": 0}])
@pytest.mark.parametrize("name", EVERY)
def test_a_node_that_skips_nothing_changes_no_bit(name: str, changes: dict[str, Any]) -> None:
    tiny = TINY[name]
    model = tiny.build()
    assert torch.equal(sample(magcache(model, "auto", **changes), tiny, 4), sample(model, tiny, 4))


@pytest.mark.parametrize("name", EVERY)
def test_taking_residuals_changes_no_bit(name: str) -> None:
    tiny = TINY[name]
    model = tiny.build()
    accelerated = magcache(model, "auto", start_step=1000)
    with count_blocks(accelerated, tiny) as counts:
        output = sample(accelerated, tiny, 4)
    assert counts.skipped == 0
    assert torch.equal(output, sample(model, tiny, 4))


@pytest.mark.parametrize("name", EVERY)
def test_a_skip_with_the_true_residual_gives_the_models_output(name: str) -> None:
    tiny = TINY[name]
    model = tiny.build()
    errors, stack = fidelity(model, tiny, 3)
    assert len(errors) == 3
    assert max(errors) <= 1e-5
    assert dry_calls(stack) == 1  # a cheap rule gives the base from then on


@pytest.mark.parametrize("model_type", EXPERTS)
def test_two_experts_follow_their_own_part_of_the_curve(model_type: str) -> None:
    """As two KSamplerAdvanced nodes sample Wan 2.2: one the noisy steps, one the others."""
    tiny, preset = tiny_of(model_type), preset_of(model_type)
    assert switch_of(preset) and sigmas_of(preset)
    steps, (switch, _) = steps_of(preset), switch_of(preset)
    shift = preset.settings["shift"]
    halves = {(0, switch): "", (switch, steps): ""}
    latent = None
    for start, end in halves:
        model = ModelSamplingSD3().patch(tiny.build(), float(shift))[0]
        assert own_sigmas(model, steps)[:-1] == pytest.approx(sigmas_of(preset), abs=1e-6)
        accelerated = magcache(model, model_type)
        with count_blocks(accelerated, tiny) as counts:
            latent = sample(
                accelerated, tiny, steps, latent=latent, start_step=start, last_step=end,
                disable_noise=start > 0, force_full_denoise=end == steps,
            )  # fmt: skip
        halves[start, end] = str(counts)
    assert all("." in pattern for pattern in halves.values())
    assert halves == {(a, b): indexed_rule(preset, range(a, b)) for a, b in halves}


def record_curves(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, MagnitudeCurve]]:
    """The curves that each sampling from here on follows."""
    curves: list[dict[str, MagnitudeCurve]] = []
    take = host.BlockSampling._decider

    def spy(sampling: host.BlockSampling) -> Decider:
        decider = take(sampling)
        curves.append({**decider.curves})
        return decider

    monkeypatch.setattr(host.BlockSampling, "_decider", spy)
    return curves


@pytest.mark.parametrize("model_type", EXPERTS)
def test_no_ratio_is_composed_across_the_experts(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, preset = tiny_of(model_type), preset_of(model_type)
    assert switch_of(preset) and sigmas_of(preset)
    curves = record_curves(monkeypatch)
    index = switch_of(preset)[0]
    model = magcache(tiny.build(), model_type)
    sample_at(model, tiny, torch.tensor(sigmas_of(preset)[: index + 1]))
    sample_at(model, tiny, torch.tensor([*sigmas_of(preset)[index:], 0.0]))
    high, low = (taken["cond"].positions for taken in curves)
    assert high == sigmas_of(preset)[:index]
    assert low == sigmas_of(preset)[index:]


def fingerprint(model: Any) -> Any:
    """What a sampling must leave as it is."""
    network = model.model.diffusion_model
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return (
        sorted(vars(model.model)),
        sorted(vars(network)),
        [(name, id(module)) for name, module in network.named_modules()],
        [(name, id(weight)) for name, weight in network.named_parameters()],
        [len(getattr(module, hook)) for module in network.modules() for hook in hooks],
        [id(module.forward.__func__) for module in network.modules()],
        repr(model.model_options),
        {kind: sorted(keys) for kind, keys in model.wrappers.items()},
    )


@pytest.fixture
def residuals(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Weak references to every residual that is kept."""
    kept: list[Any] = []
    put = ResidualCache.put

    def spy(self: ResidualCache, branch: Any, sigma: float, residual: Any) -> None:
        kept.extend(weakref.ref(tensor) for tensor in residual)
        put(self, branch, sigma, residual)

    monkeypatch.setattr(ResidualCache, "put", spy)
    return kept


@pytest.mark.parametrize("name", EVERY)
def test_after_a_sampling_the_model_is_as_before(name: str, residuals: list[Any]) -> None:
    tiny = TINY[name]
    model = tiny.build()
    sample(model, tiny, 2)
    before = fingerprint(model)
    accelerated = magcache(model, "auto")
    on_it = fingerprint(accelerated)
    sample(accelerated, tiny, 6)
    assert fingerprint(model) == before
    assert fingerprint(accelerated) == on_it
    gc.collect()
    assert residuals
    assert not any(reference() is not None for reference in residuals)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_wrong_model_type_is_an_error_at_the_node(model_type: str) -> None:
    fitting = MODEL_TYPES[model_type].network
    for network in dict.fromkeys(tiny.network for tiny in TINY.values()):
        if network == fitting:
            continue
        model = next(tiny for tiny in TINY.values() if tiny.network == network).build()
        for node in (
            lambda m: magcache(m, model_type),
            lambda m: MagCacheCalibration().apply(m, model_type),
        ):
            with pytest.raises(ValueError, match="choose its own type") as caught:
                node(model)
            assert model_type in str(caught.value)
            assert network in str(caught.value)


class _NoModule:
    """Calls a module, but is none: nothing can be hooked on it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@pytest.mark.parametrize("name", EVERY)
def test_a_model_without_its_head_runs_uncached_and_warns_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = TINY[name]
    plain = sample(tiny.build(), tiny, 6)
    model = tiny.build()
    network = model.model.diffusion_model
    head = FAMILIES[tiny.network].heads[0]
    vars(network)[head] = _NoModule(network._modules.pop(head))
    with caplog.at_level(logging.WARNING, "magcache"):
        output = sample(magcache(model, "auto"), tiny, 6)
    assert torch.equal(output, plain)
    warnings = [record.getMessage() for record in caplog.records if record.name == "magcache"]
    assert len(warnings) == 1
    assert "runs uncached" in warnings[0]
    assert tiny.network in warnings[0]
    assert head in warnings[0]


def test_one_familys_failure_leaves_the_others_alone(caplog: pytest.LogCaptureFixture) -> None:
    broken, other = TINY["flux"], TINY["wan_t2v"]
    model = broken.build()
    network = model.model.diffusion_model
    vars(network)["final_layer"] = _NoModule(network._modules.pop("final_layer"))
    sample(magcache(model, "flux"), broken, 6)
    accelerated = magcache(other.build(), "wan2.1_t2v_14B", magcache_thresh=0.3)
    with count_blocks(accelerated, other) as counts:
        sample(accelerated, other, 8)
    assert counts.skipped > 0


@pytest.mark.parametrize(("model_type", "shift"), [("wan2.2_t2v_14B", 8), ("wan2.2_i2v_14B", 8)])
def test_an_expert_that_starts_beyond_its_range_still_follows_its_own_curve(
    model_type: str, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI's own workflows split 20 steps in the middle, at a σ above the published switch."""
    tiny, preset = tiny_of(model_type), preset_of(model_type)
    assert switch_of(preset) and sigmas_of(preset)
    curves = record_curves(monkeypatch)
    model = magcache(ModelSamplingSD3().patch(tiny.build(), float(shift))[0], model_type)
    for start, end in ((0, 10), (10, 20)):
        sample(model, tiny, 20, start_step=start, last_step=end)
    index = switch_of(preset)[0]
    high, low = (taken["cond"].positions for taken in curves)
    assert (high, low) == (sigmas_of(preset)[:index], sigmas_of(preset)[index:])


@pytest.mark.parametrize("steps", [20, 28, 30])
def test_a_split_run_protects_what_the_undivided_run_does(steps: int) -> None:
    """Step counts that do not divide ComfyUI's table of 1000 σ included."""
    tiny = TINY["wan_t2v"]
    settings = {"magcache_thresh": 0.3, "retention_ratio": 0.2, "magcache_K": 2}
    model = magcache(tiny.build(), "wan2.1_t2v_14B", **settings)
    patterns = {}
    for last in (steps, steps - 1):
        with count_blocks(model, tiny) as counts:
            sample(model, tiny, steps, last_step=last)
        patterns[last] = str(counts)
    assert patterns[steps].startswith(patterns[steps - 1][: steps // 2])
    assert patterns[steps].index(".") == int(0.2 * steps)


@pytest.mark.parametrize(("steps", "denoise"), [(10, 0.5), (14, 0.5), (24, 0.8)])
def test_img2img_protects_only_what_belongs_to_the_beginning(steps: int, denoise: float) -> None:
    """Of 20, 28 and 30 whole steps 4, 5 and 6 are protected; the run starts after 10, 14 and 6."""
    tiny = TINY["wan_t2v"]
    settings = {"magcache_thresh": 0.3, "retention_ratio": 0.2, "magcache_K": 2}
    model = magcache(tiny.build(), "wan2.1_t2v_14B", **settings)
    with count_blocks(model, tiny) as counts:
        sample(model, tiny, steps, denoise=denoise, latent=torch.ones(tiny.shape))
    assert len(counts.evaluations) == steps
    assert str(counts).startswith("#..#")
