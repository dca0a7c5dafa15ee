"""What the further families are given now and then: guides, masks, ControlNets, several guiders."""

import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.controlnet
import comfy.sample
import comfy.samplers
import folder_paths
import pytest
import torch
from comfy import model_base
from comfy_extras.nodes_lt import LTXVAddGuide
from fidelity import fidelity, flat
from test_beside_conditions import controlled, with_values
from tiny_models import FURTHER, TINY, count_blocks, sample
from watch import difference

from magcache.doctor.tiny import Tiny
from magcache.hosts.comfyui.nodes.calibration import MagCacheCalibration
from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed

STEPS = 9
Options = dict[str, Any]
"""What `sample` is given."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    return tmp_path / "magcache"


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(11))


def nested(*streams: torch.Tensor) -> Any:
    return importlib.import_module("comfy.nested_tensor").NestedTensor(streams)


def with_both(tiny: Tiny, **values: Any) -> Options:
    positive, negative = tiny.conds()
    return {"conds": (with_values(positive, **values), with_values(negative, **values))}


def first_frame(*shape: int) -> torch.Tensor:
    """A mask that keeps the first frame of a video."""
    mask = torch.ones(shape)
    mask[:, :, :1] = 0
    return mask


def a_controlnet(model: Any, tiny: Tiny) -> tuple[Any, Options]:
    return model, {"conds": controlled(tiny)}


def another_batch(model: Any, tiny: Tiny) -> tuple[Any, Options]:
    return model, {"latent": torch.zeros(2, *tiny.shape[1:])}


def no_references(model: Any, tiny: Tiny) -> tuple[Any, Options]:
    conds = tiny.conds()
    for cond in conds:
        del cond[0][1]["reference_latents"]
    return model, {"conds": conds}


def references_of_the_positive(model: Any, tiny: Tiny) -> tuple[Any, Options]:
    positive, negative = tiny.conds()
    del negative[0][1]["reference_latents"]
    return model, {"conds": (positive, negative)}


def a_start_image(model: Any, tiny: Tiny) -> tuple[Any, Options]:
    """Kept by a mask: then each frame, or each token, has its own timestep."""
    return model, {"latent": noise(*tiny.shape), "noise_mask": first_frame(1, 1, *tiny.shape[2:])}


def a_start_image_in_the_conditions(model: Any, tiny: Tiny) -> tuple[Any, Options]:
    """As Kandinsky5ImageToVideo gives it, kept by a mask too."""
    start, mask = noise(*tiny.shape)[:, :, :1], first_frame(1, 1, *tiny.shape[2:])
    _, kept = a_start_image(model, tiny)
    return model, {**kept, **with_both(tiny, time_dim_replace=start, concat_mask=mask)}


def a_soft_mask(model: Any, tiny: Tiny) -> tuple[Any, Options]:
    mask = torch.linspace(0, 1, tiny.shape[-1]).expand(1, 1, *tiny.shape[2:])
    return model, {"latent": noise(*tiny.shape), "noise_mask": mask}


def a_guide(model: Any, tiny: Tiny) -> tuple[Any, Options]:
    """Frames of it are appended to the latent, and some of their tokens left out."""
    video = torch.zeros(tiny.shape)
    positive, negative, latent, mask = LTXVAddGuide.append_keyframe(
        *tiny.conds(), 8, video, torch.ones(1, 1, *tiny.shape[2:]), noise(1, 128, 1, 4, 4), 0.7,
        (8, 32, 32),
    )  # fmt: skip
    if tiny.audio:
        latent, mask = nested(latent, torch.zeros(tiny.audio)), nested(mask)
    return model, {"conds": (positive, negative), "latent": latent, "noise_mask": mask}


def a_start_image_and_sound(model: Any, tiny: Tiny) -> tuple[Any, Options]:
    sound = torch.ones(tiny.audio)
    sound[..., :2, :] = 0
    latent = nested(noise(*tiny.shape), noise(*tiny.audio))
    masks = nested(first_frame(1, 1, *tiny.shape[2:]), sound)
    return model, {"latent": latent, "noise_mask": masks}


def a_voice(model: Any, tiny: Tiny) -> tuple[Any, Options]:
    return model, with_both(tiny, ref_audio={"tokens": noise(1, 3, 128)})


def no_sound(model: Any, tiny: Tiny) -> tuple[Any, Options]:
    return model, {"latent": torch.zeros(tiny.shape)}


def minimax_references(model: Any, _tiny: Tiny) -> tuple[Any, Options]:
    image = {"kind": "image", "latent": noise(1, 24, 1, 4, 4), "latent_h": 4, "latent_w": 4}
    sound = {"kind": "audio", "audio_latent": noise(1, 32, 2, 3), "ref_audio_t": 3}
    return model, with_both(_tiny, minimax_refs=[image, sound])


def an_image_to_edit(model: Any, tiny: Tiny) -> tuple[Any, Options]:
    return model, with_both(tiny, concat_latent_image=noise(*tiny.shape))


def a_patch_after_the_blocks(model: Any, _tiny: Tiny) -> tuple[Any, Options]:
    """As Z-Image's ControlNets are."""
    model = model.clone()
    model.set_model_patch(lambda args: {"img": 0.5 * args["img"]}, "double_block")
    return model, {}


CASES: list[tuple[str, Callable[[Any, Any], tuple[Any, Options]]]] = [
    ("sd3", a_controlnet),
    ("qwen_image", a_controlnet),
    ("sd3", another_batch),
    ("flux2", references_of_the_positive),
    ("omnigen2", no_references),
    ("omnigen2", references_of_the_positive),
    ("z_image_omni", references_of_the_positive),
    ("z_image", a_patch_after_the_blocks),
    ("lumina2", a_soft_mask),
    ("ltxv", a_start_image),
    ("ltxv", a_guide),
    ("ltx2", a_start_image_and_sound),
    ("ltx2", a_guide),
    ("ltx2", a_voice),
    ("ltx2", no_sound),
    ("cosmos_predict2_i2v", a_start_image),
    ("kandinsky5", a_start_image_in_the_conditions),
    ("minimax_h3", a_start_image_and_sound),
    ("minimax_h3", minimax_references),
    ("hidream", an_image_to_edit),
    ("cogvideox_i2v", another_batch),
]


@pytest.mark.parametrize(
    ("name", "given"), [pytest.param(n, given, id=f"{n}-{given.__name__}") for n, given in CASES]
)
def test_it_acts_and_the_true_residual_holds_it(
    name: str, given: Callable[[Any, Any], tuple[Any, Options]]
) -> None:
    tiny = FURTHER.get(name) or TINY.get(name)
    if tiny is None:
        pytest.skip(f"this ComfyUI has no {name}")
    if given is a_voice and "ref_audio" not in Path(model_base.__file__).read_text("utf-8"):
        pytest.skip("this ComfyUI gives LTX-2 no voice to follow")
    model = tiny.build()
    with_it, options = given(model, tiny)
    errors, _ = fidelity(with_it, tiny, **options)
    assert max(errors) <= 1e-6
    plain, changed = flat(sample(model, tiny, 2)), flat(sample(with_it, tiny, 2, **options))
    assert plain.shape != changed.shape or difference(changed, plain) > 0.01


def measured(model: Any) -> Any:
    return MagCacheCalibration().apply(model, "auto")[0]


def faster(model: Any) -> Any:
    return MagCacheTargetSpeed().apply(model, 1.5, "automatic")[0]


def guided(guider: Any, tiny: Tiny) -> torch.Tensor:
    """Samples as SamplerCustomAdvanced does."""
    latent = tiny.latent()
    model_sampling = guider.model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, "simple", STEPS)
    start = comfy.sample.prepare_noise(latent, 1)
    sampler = comfy.samplers.sampler_object("euler")
    return guider.sample(start, latent, sampler, sigmas, disable_pbar=True, seed=1)


def custom_sampling() -> Any:
    return importlib.import_module("comfy_extras.nodes_custom_sampler")


def test_a_guider_with_three_conditions() -> None:
    """As OmniGen2 edits: the text and the references have guidance of their own."""
    tiny = FURTHER["omnigen2"]
    model, (positive, negative) = tiny.build(), tiny.conds()
    (_, bare) = no_references(model, tiny)

    def run(model: Any) -> torch.Tensor:
        guider = custom_sampling().Guider_DualCFG(model)
        guider.set_conds(positive, negative, bare["conds"][1])
        guider.set_cfg(3.0, 2.0)
        return guided(guider, tiny)

    fast, plain = faster(model), run(model)
    assert torch.equal(run(measured(model)), plain)
    with count_blocks(fast, tiny) as counts:
        output = run(fast)
    assert counts.skipped == 3
    assert 0 < difference(output, plain) < 0.5


@pytest.mark.skipif("ideogram4" not in FURTHER, reason="this ComfyUI has no Ideogram 4")
def test_a_guider_with_a_model_for_each_condition() -> None:
    tiny = FURTHER["ideogram4"]
    model, other = tiny.build(), tiny.build()
    positive, negative = tiny.conds()

    def run(model: Any) -> torch.Tensor:
        guider = custom_sampling().Guider_DualModel(model, other)
        guider.set_conds(positive, negative)
        guider.set_cfg(3.0)
        return guided(guider, tiny)

    fast, plain = faster(model), run(model)
    assert torch.equal(run(measured(model)), plain)
    ran: list[torch.nn.Module] = []
    handle = tiny.blocks(other)[0].register_forward_pre_hook(lambda block, _: ran.append(block))
    with handle, count_blocks(fast, tiny) as counts:
        output = run(fast)
    assert counts.skipped == 3 and len(ran) == counts.computed
    assert 0 < difference(output, plain) < 0.5


@pytest.mark.parametrize("start", [0.01, 0.5])
def test_skip_layer_guidance_is_a_branch_of_its_own(start: float) -> None:
    tiny = FURTHER["sd3"]
    plain_model = tiny.build()
    slg = importlib.import_module("comfy_extras.nodes_slg").SkipLayerGuidanceDiT
    (model,) = slg.execute(plain_model, 3.0, start, 0.9, "1").result
    fast, plain = faster(model), sample(model, tiny, STEPS)
    assert difference(plain, sample(plain_model, tiny, STEPS)) > 0.01
    assert torch.equal(sample(measured(model), tiny, STEPS), plain)
    with count_blocks(fast, tiny) as counts:
        output = sample(fast, tiny, STEPS)
    assert 1 <= counts.skipped <= 3
    assert 0 < difference(output, plain) < 0.5


class HyditControl(comfy.controlnet.ControlBase):
    """Its hints are taken one by one as the blocks run, as HunyuanDiT's ControlNets give them."""

    def get_control(self, x_noisy: torch.Tensor, *_: Any) -> dict[str, Any]:
        hint = 0.5 * noise(1, x_noisy.shape[-1] * x_noisy.shape[-2] // 4, 128)
        return {"output": [hint.expand(len(x_noisy), -1, -1)]}

    def copy(self) -> "HyditControl":
        return self


def test_a_controlnet_that_cannot_do_without_blocks_is_computed_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tiny = FURTHER["hunyuan_dit"]
    model = tiny.build()
    control = HyditControl().set_cond_hint(torch.zeros(1, 3, 64, 64), 1.0, (0.0, 1.0))
    conds = with_both(tiny, control=control, control_apply_to_uncond=True)
    plain = sample(model, tiny, STEPS, **conds)
    assert difference(plain, sample(model, tiny, STEPS)) > 0.01
    for each in (measured(model), faster(model)):
        assert torch.equal(sample(each, tiny, STEPS, **conds), plain)
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert any("the model fails without its blocks" in warning for warning in warnings)
