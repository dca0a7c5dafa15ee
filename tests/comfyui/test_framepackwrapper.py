"""The node for FramePackWrapper, in that pack's own sampler with a tiny random transformer.

FRAMEPACKWRAPPER_PATH names its checkout; what it requires has to be installed.
"""

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import packs
import pytest
import torch
from torch import nn

from magcache import run
from magcache.blocks.cache import ResidualCache
from magcache.curves import presets
from magcache.curves.magnitude import Trajectory, shifted_sigmas
from magcache.decide import rule_of
from magcache.hosts.comfyui.nodes import MagCacheFramePackWrapper
from tests.toys import scheduled

PACK = packs.needed("FRAMEPACKWRAPPER_PATH")
TEXT, POOLED, CHANNELS = 32, 24, 16


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sampler asks the GPU for free memory as it moves the transformer there."""
    nodes = importlib.import_module(f"{PACK.__name__}.nodes")
    name = "move_model_to_device_with_memory_preservation"
    monkeypatch.setattr(nodes, name, lambda model, target_device, **_: model.to(target_device))


@pytest.fixture(scope="module")
def model() -> dict[str, Any]:
    """A FRAMEPACKMODEL."""
    folder = f"{PACK.__name__}.diffusers_helper.models.hunyuan_video_packed"
    torch.manual_seed(0)
    transformer = importlib.import_module(folder).HunyuanVideoTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        text_embed_dim=TEXT,
        pooled_projection_dim=POOLED,
        rope_axes_dim=(4, 6, 6),
        has_clean_x_embedder=True,
    )
    return {"transformer": transformer.eval(), "dtype": torch.float32}


def sample(model: dict[str, Any], **changes: Any) -> torch.Tensor:
    """The latents of its sampler: two sections unless told otherwise."""
    generator = torch.Generator().manual_seed(1)
    prompts = [
        [[torch.randn(1, 5, TEXT, generator=generator), {"pooled_output": torch.randn(1, POOLED)}]]
        for _ in range(2)
    ]
    settings = {
        "shift": 0.0,
        "latent_window_size": 2,
        "use_teacache": True,
        "total_second_length": 0.53,  # 16 frames, 8 a section
        "teacache_rel_l1_thresh": 0.15,
        "steps": 25,
        "cfg": 1.0,
        "guidance_scale": 10.0,
        "seed": 0,
        "sampler": "unipc_bh1",
        "gpu_memory_preservation": 6.0,
        "start_latent": {"samples": torch.randn(1, CHANNELS, 1, 4, 4, generator=generator)},
        **changes,
    }
    torch.manual_seed(2)
    sampler = PACK.NODE_CLASS_MAPPINGS["FramePackSampler"]()
    return sampler.process(model=model, positive=prompts[0], negative=prompts[1], **settings)[0][
        "samples"
    ]


def node(model: Any, **changes: Any) -> dict[str, Any]:
    settings = {"magcache_thresh": 0.1, "retention_ratio": 0.2, "magcache_K": 3, **changes}
    preset = settings.pop("model_type", "framepack")
    return MagCacheFramePackWrapper().apply(model, preset, **settings)[0]


@contextmanager
def watched(model: dict[str, Any]) -> Iterator[list[tuple[float, bool]]]:
    """σ of each call of the transformer that came to its end, and whether a block ran."""
    calls: list[tuple[float, bool]] = []
    ran: list[bool] = []
    transformer = model["transformer"]

    def begin(*_: Any) -> None:
        ran.clear()

    def block(*_: Any) -> None:
        ran.append(True)

    def end(_: nn.Module, __: Any, kwargs: Any, ___: Any) -> None:
        calls.append((float(kwargs["timestep"].max()) / 1000, bool(ran)))

    handles = [
        transformer.register_forward_pre_hook(begin),
        transformer.register_forward_hook(end, with_kwargs=True),
        transformer.transformer_blocks[0].register_forward_pre_hook(block),
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def schedule(calls: list[tuple[float, bool]]) -> str:
    return "".join("#" if ran else "." for _, ran in calls)


def planned(steps: int, shift: float, preset: str = "framepack", **changes: Any) -> str:
    source = presets.load(preset)
    sigmas = shifted_sigmas(steps, shift)
    return str(scheduled(rule_of(source, **changes), source.curves, Trajectory(sigmas)))


def state_of(model: dict[str, Any]) -> dict[str, Any]:
    """All attributes and hooks of all modules, apart from those of their TeaCache."""
    own = {"cnt", "num_steps", "rel_l1_thresh", "previous_modulated_input", "previous_residual"}
    own |= {"accumulated_rel_l1_distance", "teacache_rescale_func", "enable_teacache"}
    return {
        name: (set(vars(module)) - own, len(module._forward_pre_hooks), len(module._modules))
        for name, module in model["transformer"].named_modules()
    }


def test_each_section_is_sampled_as_planned(model: dict[str, Any]) -> None:
    with watched(model) as calls:
        sample(node(model), shift=7.0)
    found = schedule(calls)
    assert len(found) == 50
    assert found[:25] == found[25:] == planned(25, 7.0)
    assert found[:25].count("#") == 12  # the list itself, at its own schedule


@pytest.mark.parametrize(("steps", "shift"), [(30, 3.0), (50, 7.0), (12, 1.0)])
def test_any_number_of_steps_and_any_shift(model: dict[str, Any], steps: int, shift: float) -> None:
    with watched(model) as calls:
        sample(node(model), steps=steps, shift=shift, total_second_length=0.2)
    assert schedule(calls) == planned(steps, shift)


def test_its_own_shift_grows_with_the_size(model: dict[str, Any]) -> None:
    with watched(model) as calls:
        sample(node(model), total_second_length=0.2)
    second = calls[1][0]
    shift = (1 / 24) / (1 / second - 1)
    assert 1 < shift < 2  # a few tokens
    assert schedule(calls) == planned(25, shift)


def test_bfloat16_timesteps_which_repeat_are_still_steps(model: dict[str, Any]) -> None:
    half = {**model, "dtype": torch.bfloat16}
    with watched(model) as calls:
        sample(node(half), steps=50, shift=7.0, total_second_length=0.2)
    assert len({sigma for sigma, _ in calls}) < 50 == len(calls)
    assert schedule(calls) == planned(50, 7.0)


def test_a_later_start_follows_the_curve_at_lower_noise(model: dict[str, Any]) -> None:
    start = {"samples": torch.zeros(1, CHANNELS, 4, 4, 4)}
    with watched(model) as calls:
        sample(node(model), initial_samples=start, denoise_strength=0.6, shift=7.0)
    source = presets.load("framepack")
    curve = source.curves["cond"]
    sigmas = [0.6 * sigma for sigma in shifted_sigmas(25, 7.0)]
    assert [sigma for sigma, _ in calls[:25]] == pytest.approx(sigmas, rel=1e-5)
    assert "." in schedule(calls) and curve.covers(sigmas[0])


def test_prompt_and_negative_prompt_are_kept_apart(model: dict[str, Any]) -> None:
    with watched(model) as calls:
        sample(node(model), cfg=3.0, shift=7.0, total_second_length=0.2)
    prompt, negative = schedule(calls[::2]), schedule(calls[1::2])
    assert prompt == negative == planned(25, 7.0)


@pytest.mark.parametrize("off", [{"magcache_thresh": 0.0}, {"magcache_K": 0}])
def test_skipping_nothing_is_the_original(model: dict[str, Any], off: dict[str, Any]) -> None:
    assert torch.equal(sample(node(model, **off)), sample(model, use_teacache=False))


def test_skipping_stays_near_the_original(model: dict[str, Any]) -> None:
    plain, cached = sample(model, use_teacache=False), sample(node(model))
    assert 0 < float((cached - plain).norm() / plain.norm()) < 0.05


def test_without_teacache_the_steps_are_unknown_and_it_says_so(
    model: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = sample(node(model), use_teacache=False)
    assert "runs uncached: use_teacache is off" in caplog.text
    assert torch.equal(result, sample(model, use_teacache=False))


def test_each_section_is_reported(model: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="magcache"):
        sample(node(model), shift=7.0)
    lines = [record.message for record in caplog.records if "framepack" in record.message]
    assert len(lines) == 2 and all("13 of 25" in line for line in lines)


def test_the_model_is_left_as_it_was(model: dict[str, Any]) -> None:
    before = state_of(model)
    accelerated = node(model)
    assert accelerated is not model and accelerated["dtype"] is model["dtype"]
    sample(accelerated)
    assert state_of(model) == before


@pytest.mark.parametrize("where", ["forward", "between"])
def test_cancelling_frees_all_and_leaves_nothing_for_the_next(
    model: dict[str, Any], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches: list[ResidualCache] = []

    def make(*arguments: Any) -> ResidualCache:
        caches.append(ResidualCache(*arguments))
        return caches[-1]

    monkeypatch.setattr(run, "ResidualCache", make)
    before, accelerated = state_of(model), node(model)
    expected = sample(accelerated)
    caches.clear()
    interrupt, calls = comfy.model_management.InterruptProcessingException, 0

    def stop(*_: Any, **__: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 8:
            assert caches[-1].peak_bytes > 0
            raise interrupt

    if where == "forward":
        hook = model["transformer"].transformer_blocks[1].register_forward_pre_hook(stop)
    else:
        hook = None
        progress = importlib.import_module(
            f"{PACK.__name__}.diffusers_helper.k_diffusion.uni_pc_fm"
        )
        monkeypatch.setattr(progress, "ProgressBar", lambda _: type("Bar", (), {"update": stop})())
    with pytest.raises(interrupt):
        sample(accelerated)
    if hook:
        hook.remove()
    assert [cache.bytes_held for cache in caches] == [0]
    assert state_of(model) == before
    calls = -1000
    assert torch.equal(sample(accelerated), expected)


def test_a_second_node_takes_the_place_of_the_first(model: dict[str, Any]) -> None:
    twice = node(node(model), magcache_thresh=0.15, magcache_K=4)
    with watched(model) as calls:
        sample(twice, shift=7.0, total_second_length=0.2)
    assert schedule(calls) == planned(25, 7.0, threshold=0.15, max_skip=4)
    assert schedule(calls).count("#") == 11


@pytest.mark.parametrize("wrong", ["a string", {"transformer": nn.Linear(2, 2)}, {}])
def test_another_model_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="must be a FramePackMODEL"):
        node(wrong)
