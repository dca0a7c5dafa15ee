"""Models that ComfyUI derives from Wan: none has a published curve, most follow a relative's."""

import importlib
import logging
import re
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from fidelity import fidelity
from tiny_models import FURTHER, RELATIVES, TINY, UNFIT, sample, sample_at
from watch import difference, settings_of, without_residuals

from magcache.curves.calibration import Calibration
from magcache.hosts.comfyui.models import MODEL_TYPES, MODELS
from magcache.hosts.comfyui.nodes.calibration import MagCacheCalibration
from magcache.hosts.comfyui.nodes.magcache import MagCache

STEPS = 10
FOLLOWED = {
    "WAN21_Camera": "wan2.1_i2v_480p_14B",
    "WAN22_Camera": "wan2.2_i2v_14B",
    "WAN22_S2V": "wan2.1_t2v_1.3B",
    "WAN21_HuMo": "wan2.1_t2v_1.3B",
    "WAN22_Animate": "wan2.1_i2v_480p_14B",
    "WAN_Animate2": "wan2.1_i2v_480p_14B",
    "WAN21_SCAIL": "wan2.1_i2v_480p_14B",
    "WAN21_SCAIL2": "wan2.1_i2v_480p_14B",
    "WAN22_WanDancer": "wan2.1_i2v_480p_14B",
    "WAN21_FunControl2V": "wan2.1_i2v_480p_14B",
}
"""What auto takes for a narrow model and a small frame."""
WAN_TYPES = [name for name, each in MODEL_TYPES.items() if each.network == "WanModel"]


def magcache(model: Any, model_type: str = "auto", threshold: float = 0.3, **options: Any) -> Any:
    return MagCache().apply(model, model_type, threshold, 0.1, 1, 0, -1, **options)[0]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "magcache"]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record for record in caplog.records if record.name == "magcache"]
    return [record.getMessage() for record in found if record.levelno >= logging.WARNING]


def said(model: Any) -> list[str]:
    """Notes of the report."""
    return settings_of(model).watch.last.warnings


def curve_in_use(caplog: pytest.LogCaptureFixture) -> str:
    headlines = [
        re.search(r"evaluations skipped, \S+ \((\S+), threshold", x) for x in lines(caplog)
    ]
    return [found[1] for found in headlines if found][-1]


def test_every_relative_of_this_comfyui_is_in_the_table() -> None:
    known = {row.kind for row in MODELS if row.follows}
    assert {each.network for each in RELATIVES.values()} - {"WanModel"} <= known
    assert {n for n, each in RELATIVES.items() if each.network == "WanModel"} <= known
    assert {*RELATIVES} <= {*FOLLOWED}


@pytest.mark.parametrize("name", RELATIVES)
def test_what_a_model_is_given_beside_the_text_acts(name: str) -> None:
    """Else the tests below would try nothing of its own."""
    tiny = RELATIVES[name]
    model = tiny.build()
    conds = tiny.conds()
    bare = tuple([[text, {}] for text, _ in each] for each in conds)
    for cond in bare if name == "WAN_Animate2" else ():
        cond[0][1]["clip_vision_output"] = conds[0][0][1]["clip_vision_output"]
    assert difference(sample(model, tiny, 2), sample(model, tiny, 2, conds=bare)) > 0.01


@pytest.mark.parametrize("name", RELATIVES)
def test_a_skip_with_the_true_residual_gives_the_models_output(name: str) -> None:
    tiny = RELATIVES[name]
    model = tiny.build()
    errors, _ = fidelity(model, tiny, 3)
    assert len(errors) == 3
    assert max(errors) <= 1e-6


@pytest.mark.parametrize("name", RELATIVES)
def test_auto_follows_a_relative_and_says_so(name: str, caplog: pytest.LogCaptureFixture) -> None:
    tiny = RELATIVES[name]
    model = tiny.build()
    uncached = sample(model, tiny, STEPS)
    assert torch.equal(sample(magcache(model, threshold=0), tiny, STEPS), uncached)
    fast = magcache(model)
    with caplog.at_level(logging.INFO, "magcache"):
        output = sample(fast, tiny, STEPS)
    with without_residuals():
        worst = difference(sample(magcache(model), tiny, STEPS), uncached)
    assert re.search(r"MagCache: [345] of 10 evaluations skipped", caplog.text)
    assert 0 < difference(output, uncached) < worst / 2
    assert torch.equal(sample(model, tiny, STEPS), uncached)
    followed = FOLLOWED[name]
    assert curve_in_use(caplog) == followed
    kin = tiny.network if tiny.network != "WanModel" else name
    relative = f"published for {followed}, and this model is its relative {kin}"
    assert any(relative in note for note in said(fast))
    assert not warnings(caplog)


@pytest.mark.parametrize("name", RELATIVES)
def test_any_wan_type_can_be_chosen_and_no_other(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = RELATIVES[name]
    model = tiny.build()
    for model_type in WAN_TYPES:
        magcache(model, model_type)
    fast = magcache(model, "wan2.1_t2v_14B")
    with caplog.at_level(logging.INFO, "magcache"):
        sample(fast, tiny, 2)
    assert curve_in_use(caplog) == "wan2.1_t2v_14B"
    relative = "published for wan2.1_t2v_14B, and this model is its relative"
    assert any(relative in note for note in said(fast))
    for foreign in ("flux", "wan2.1_vace_14B"):
        with pytest.raises(ValueError, match=f"model_type {foreign} is for .* {tiny.network}:"):
            magcache(model, foreign)


@pytest.mark.parametrize("name", ["WAN22_S2V", "WAN21_HuMo"])
def test_a_wide_model_from_text_follows_the_wide_one(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = RELATIVES[name]
    model = magcache(tiny.build())
    model.model.diffusion_model.dim, narrow = 5120, model.model.diffusion_model.dim

    def narrower(executor: Any, *args: Any, **kwargs: Any) -> Any:
        model.model.diffusion_model.dim = narrow  # its weights are still those of a narrow one
        return executor(*args, **kwargs)

    model.add_wrapper_with_key("apply_model", "narrower", narrower)
    with caplog.at_level(logging.INFO, "magcache"):
        sample(model, tiny, 1)
    assert curve_in_use(caplog) == "wan2.1_t2v_14B"


def test_a_wan_itself_draws_no_note() -> None:
    fast = magcache(TINY["wan_i2v"].build())
    sample(fast, TINY["wan_i2v"], STEPS)
    assert said(fast) == []


@pytest.mark.parametrize("name", RELATIVES)
def test_a_calibration_of_its_own_takes_the_relatives_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    tiny = RELATIVES[name]
    model = tiny.build()
    plain = sample(model, tiny, STEPS)
    (calibrating,) = MagCacheCalibration().apply(model, "auto")
    assert torch.equal(sample(calibrating, tiny, STEPS), plain)
    (file,) = (tmp_path / "magcache").glob("*.json")
    assert Calibration.load(file).model == tiny.network
    (cached,) = MagCache().apply(model, "auto", 9.0, 0.1, 1, 0, -1, calibration=file.name)
    with caplog.at_level(logging.INFO, "magcache"):
        sample(cached, tiny, STEPS)
    assert "MagCache: 5 of 10 evaluations skipped" in caplog.text
    assert not any("relative" in note for note in said(cached))


@pytest.mark.skipif("WAN_Animate2" not in RELATIVES, reason="this ComfyUI has no Animate 2")
def test_animate_2_with_its_own_cache_of_poses() -> None:
    """Its cache counts the blocks of the list that a skipped evaluation finds empty.

    It keeps the poses of a batch's first row for all rows, so it is exact without guidance only.
    """
    tiny = RELATIVES["WAN_Animate2"]
    model = tiny.build()
    node = importlib.import_module("comfy_extras.nodes_wan").WanAnimate2Cache
    (posed,) = node.execute(model, "cpu").result
    for each in (lambda model: model, magcache):
        with_it, without = (sample(each(m), tiny, STEPS, cfg=1.0) for m in (posed, model))
        assert difference(with_it, without) < 1e-5


@pytest.mark.skipif("WAN22_WanDancer" not in RELATIVES, reason="this ComfyUI has no WanDancer")
def test_wandancers_other_head_means_an_uncached_run(caplog: pytest.LogCaptureFixture) -> None:
    """At other rates than 30 frames a second it uses a head that the table does not name."""
    tiny = RELATIVES["WAN22_WanDancer"]
    model = tiny.build()
    conds = tuple([[text, {**more, "fps": 16.0}] for text, more in each] for each in tiny.conds())
    with caplog.at_level(logging.INFO, "magcache"):
        output = sample(magcache(model), tiny, STEPS, conds=conds)
    assert torch.equal(output, sample(model, tiny, STEPS, conds=conds))
    (warning,) = warnings(caplog)
    assert "the rest of this run is uncached: the head was not called" in warning


@pytest.mark.skipif("WAN21_CausalAR_T2V" not in UNFIT, reason="this ComfyUI has no causal Wan")
@pytest.mark.parametrize("model_type", ["auto", "wan2.1_t2v_1.3B"])
@pytest.mark.parametrize("node", ["MagCache", "MagCacheCalibration"])
def test_a_model_that_writes_for_frames_to_come_runs_uncached(
    node: str, model_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = importlib.import_module("comfy_extras.nodes_ar_video").SamplerARVideo
    (causal,) = sampler.execute(num_frame_per_block=1).result
    tiny = UNFIT["WAN21_CausalAR_T2V"]
    model = tiny.build(causal_ar=True)
    assert type(model.model.diffusion_model).__name__ == "CausalWanModel"

    def run(model: Any) -> torch.Tensor:
        sigmas = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.0])
        return sample_at(model, tiny, sigmas, causal, cfg=1.0)

    plain = run(model)
    nodes = {
        "MagCache": magcache,
        "MagCacheCalibration": lambda *a: MagCacheCalibration().apply(*a)[0],
    }
    assert torch.equal(run(nodes[node](model, model_type)), plain)
    (warning,) = warnings(caplog)
    assert "runs uncached: CausalWanModel's blocks cannot be skipped: its blocks" in warning


@pytest.mark.skipif("WAN21_FlowRVS" not in FURTHER, reason="this ComfyUI has no FlowRVS")
def test_a_model_that_starts_from_a_video_follows_a_curve_only_if_told_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tiny = FURTHER["WAN21_FlowRVS"]
    model = tiny.build()
    assert magcache(model, calibration="published") is model
    assert "runs uncached: WAN21_FlowRVS has no published list" in warnings(caplog)[0]
    with caplog.at_level(logging.INFO, "magcache"):
        sample(magcache(model, "wan2.1_t2v_1.3B"), tiny, STEPS)
    assert curve_in_use(caplog) == "wan2.1_t2v_1.3B"
