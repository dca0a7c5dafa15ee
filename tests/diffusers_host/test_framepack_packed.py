"""lllyasviel's own FramePack transformer and sampler, run from a checkout at $FRAMEPACK_PATH.

Its code is not part of this project: without a checkout these tests are skipped. It needs einops;
opencv and torchvision, which it imports to read and write files only, may be missing.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoFramepackPipeline
from torch import Tensor, nn

import magcache
from magcache.run import Run

assert HunyuanVideoFramepackPipeline  # what it imports is there before modules are stood in for
CHECKOUT = os.environ.get("FRAMEPACK_PATH", "")
OWN_MODULES = ("diffusers_helper.models.hunyuan_video_packed",
               "diffusers_helper.pipelines.k_diffusion_hunyuan")  # fmt: skip
FILES_ONLY = ("cv2", "torchvision")
SHIFT = 7.0  # of its schedule at every size of its demo
NOISE_TOKENS = 2 * 4 * 4  # 2 latent frames of 8x8, in patches of 2x2


@pytest.fixture(scope="module")
def own() -> Iterator[tuple[ModuleType, ModuleType]]:
    """The modules of its transformer and its sampler."""
    if not (Path(CHECKOUT) / "diffusers_helper").is_dir():
        pytest.skip("set FRAMEPACK_PATH to a checkout of lllyasviel/FramePack")
    pytest.importorskip("einops", reason="lllyasviel's FramePack needs einops")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CHECKOUT)
        for name in FILES_ONLY:
            try:
                importlib.import_module(name)
            except ImportError:
                patch.setitem(sys.modules, name, ModuleType(name))
        transformer, sampler = (importlib.import_module(name) for name in OWN_MODULES)
    yield transformer, sampler
    for name in [n for n in sys.modules if n.split(".")[0] == "diffusers_helper"]:
        del sys.modules[name]


@pytest.fixture
def model(own: tuple[ModuleType, ModuleType]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = own[0].HunyuanVideoTransformer3DModelPacked(
            num_attention_heads=2, attention_head_dim=16, num_layers=2, num_single_layers=3,
            num_refiner_layers=1, text_embed_dim=8, pooled_projection_dim=8,
            rope_axes_dim=(4, 6, 6), has_image_proj=True, image_proj_dim=8,
            has_clean_x_embedder=True,
        )  # fmt: skip
    return built.eval().requires_grad_(False)


Section = Callable[..., Tensor]


@pytest.fixture
def section(own: tuple[ModuleType, ModuleType], model: nn.Module) -> Section:
    """Samples one section with its own sampler; `cfg` other than 1 calls the model twice."""

    def sample(steps: int = 25, cfg: float = 1.0, **more: Any) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        places = torch.arange(22)[None].split([1, 2, 1, 2, 16], dim=1)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(model.dtype)

        text: dict[str, Any] = {}
        for name in ("prompt", "negative_prompt"):
            text |= {f"{name}_embeds": random(1, 8, 8), f"{name}_poolers": random(1, 8)}
            text[f"{name}_embeds_mask"] = torch.ones(1, 8, dtype=torch.long)
        return own[1].sample_hunyuan(
            model, width=64, height=64, frames=5, shift=SHIFT, num_inference_steps=steps,
            real_guidance_scale=cfg, distilled_guidance_scale=10.0, generator=generator,
            device="cpu", dtype=model.dtype, image_embeddings=random(1, 4, 8),
            latent_indices=places[1], clean_latents=random(1, 16, 2, 8, 8),
            clean_latent_indices=torch.cat([places[0], places[2]], 1),
            clean_latents_2x=random(1, 16, 2, 8, 8), clean_latent_2x_indices=places[3],
            clean_latents_4x=random(1, 16, 16, 8, 8), clean_latent_4x_indices=places[4],
            **text, **more,
        )  # fmt: skip

    return sample


def scheduler(steps: int = 25) -> FlowMatchEulerDiscreteScheduler:
    """Tells the noise levels of its sampler, which keeps its own; it is never stepped."""
    made = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    made.set_timesteps(sigmas=[1 - step / steps for step in range(steps)])
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_each_section_follows_the_published_schedule(
    model: nn.Module, section: Section, cfg: float, dtype: torch.dtype
) -> None:
    model.to(dtype)
    full = section(cfg=cfg)
    with magcache.apply(model, preset="framepack", scheduler=scheduler()) as applied:
        first, second = section(cfg=cfg), section(cfg=cfg)
    assert applied.report().schedule == " ".join(2 * ["#####..#.#..#..#..#...#.#"])
    assert torch.equal(first, second) and not torch.equal(first, full)
    assert (first - full).norm() < 0.2 * full.norm()
    assert torch.equal(section(cfg=cfg), full)  # removed, it is as before


def test_nothing_skipped_is_the_original(model: nn.Module, section: Section) -> None:
    full = section()
    with magcache.apply(model, preset="framepack", max_skip=0, scheduler=scheduler()):
        assert torch.equal(section(), full)


def test_the_residual_is_of_history_and_noise(model: nn.Module, section: Section) -> None:
    """Its head sees all tokens, the history's in front, and the last are the output."""
    tokens: list[int] = []
    seen = model.norm_out.register_forward_pre_hook(lambda _, args: tokens.append(args[0].shape[1]))
    with magcache.apply(model, preset="framepack", scheduler=scheduler()) as applied:
        section()
        (held,) = {run.bytes_held for run in applied.report().runs}
    seen.remove()
    assert tokens[0] > NOISE_TOKENS
    assert held == tokens[0] * 32 * 4


def test_more_steps_in_bfloat16_are_told_apart_down_to_its_precision(
    model: nn.Module, section: Section
) -> None:
    """At shift 7 timesteps come closer than bfloat16 can tell above 35 steps."""
    model.to(torch.bfloat16)
    for steps, told_apart in ((35, 35), (50, 48)):
        with magcache.apply(model, preset="framepack", scheduler=scheduler(steps)) as applied:
            section(steps=steps)
        report = applied.report()
        assert told_apart <= report.evaluations <= steps < 2 * report.skipped


def test_a_calibration_makes_a_speedup(model: nn.Module, section: Section) -> None:
    with magcache.apply(model, calibrate=True, scheduler=scheduler()) as applied:
        section()
        measured = applied.calibration()
    with magcache.apply(model, calibration=measured, speedup=2.5, scheduler=scheduler()) as applied:
        section(), section()
    assert [run.skipped for run in applied.report().runs] == [15, 15]


def test_cancelling_as_its_demo_does(model: nn.Module, section: Section, runs: list[Run]) -> None:
    def cancel(state: dict[str, Any]) -> None:
        if state["i"] == 12:
            raise KeyboardInterrupt

    with magcache.apply(model, preset="framepack", scheduler=scheduler()):
        expected = section()
        with pytest.raises(KeyboardInterrupt):
            section(callback=cancel)
        assert torch.equal(section(), expected)
    assert not any(run.cache.bytes_held for run in runs)
    assert "_diffusers_hook" not in vars(model)


def test_beside_its_own_cache_it_runs_uncached(
    model: nn.Module, section: Section, caplog: pytest.LogCaptureFixture
) -> None:
    """TeaCache looks at the first block, which a skipped evaluation does not have."""
    model.initialize_teacache(True, num_steps=25, rel_l1_thresh=0.15)
    expected = section()
    model.initialize_teacache(True, num_steps=25, rel_l1_thresh=0.15)
    with magcache.apply(model, preset="framepack", scheduler=scheduler()):
        assert torch.equal(section(), expected)
    assert "the rest of this run is uncached" in caplog.text


def test_a_preset_of_another_family_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="its presets: framepack, framepack_f1"):
        magcache.apply(model, preset="hunyuan_video", scheduler=scheduler())
