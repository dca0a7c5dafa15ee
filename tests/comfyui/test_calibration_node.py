"""MagCache Calibration: what it measures, where it writes it, and how it is used."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import comfy.samplers
import comfyui_version
import folder_paths
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from tiny_models import TINY, Tiny, count_blocks, sample

from magcache.blocks.families import family_of
from magcache.curves.calibration import Calibration, CalibrationError
from magcache.hosts.comfyui import calibrations, host
from magcache.hosts.comfyui.models import FAMILIES
from magcache.hosts.comfyui.nodes.calibration import MagCacheCalibration
from magcache.hosts.comfyui.nodes.magcache import MagCache
from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed

WAN = TINY["wan_t2v"]
OTHER_NAMES = {"ddim": "euler", "uni_pc": "unipc", "uni_pc_bh2": "unipc_bh2"}
"""Samplers whose function is called otherwise."""
SIMPLE = ["flux", "chroma", "hunyuan_video", "wan_t2v", "qwen_image"]
"""Models whose head sees exactly what the first block is given, or its last tokens, changed."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    return tmp_path / "magcache"


def calibrating(model: Any, model_type: str = "auto") -> Any:
    return MagCacheCalibration().apply(model, model_type)[0]


def read(folder: Path) -> Calibration:
    (path,) = folder.glob("*.json")
    return Calibration.load(path)


@contextmanager
def residuals_of(model: Any, tiny: Tiny) -> Iterator[list[torch.Tensor]]:
    """What the blocks add in each model call: head input minus the first block's."""
    network = model.model.diffusion_model
    family = family_of(network, FAMILIES)
    head = getattr(network, family.heads[0])
    found: list[torch.Tensor] = []
    first: list[torch.Tensor] = []

    def begin(_block: Any, args: Any, kwargs: Any) -> None:
        tensors = [*args, *kwargs.values()]
        first[:] = [next(t for t in tensors if torch.is_tensor(t)).clone()]

    def end(_head: Any, args: Any) -> None:
        found.append(args[0] - first[0])

    handles = [
        tiny.blocks(model)[0].register_forward_pre_hook(begin, with_kwargs=True),
        head.register_forward_pre_hook(end),
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def expected(residuals: list[torch.Tensor]) -> dict[str, list[float]]:
    """The published measure, written out for the rows of one branch."""
    figures: dict[str, list[float]] = {"ratios": [1.0], "spreads": [0.0], "cosine_distances": [0.0]}
    for before, after in pairwise(residuals):
        ratio = after.norm(dim=-1) / before.norm(dim=-1)
        cosine = (after * before).sum(-1) / after.norm(dim=-1) / before.norm(dim=-1)
        figures["ratios"].append(float(ratio.mean()))
        figures["spreads"].append(float(ratio.var(correction=0).sqrt()))
        figures["cosine_distances"].append(float((1 - cosine).mean()))
    return figures


@pytest.mark.parametrize("name", SIMPLE)
def test_ratios_are_those_of_an_independent_measurement(name: str, folder: Path) -> None:
    tiny, steps = TINY[name], 7
    model = tiny.build()
    with residuals_of(model, tiny) as residuals:
        sample(model, tiny, steps)
    # One call of two rows an evaluation: ComfyUI puts the negative condition in front.
    assert [len(r) for r in residuals] == [2] * steps
    branches = {"uncond": [r[:1] for r in residuals], "cond": [r[1:] for r in residuals]}

    sample(calibrating(model), tiny, steps)
    measured = read(folder).branches
    assert set(measured) == set(branches)
    for branch, own in branches.items():
        for figure, values in expected(own).items():
            assert getattr(measured[branch], figure) == pytest.approx(values, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_every_family_can_be_calibrated_and_use_it(name: str, folder: Path) -> None:
    tiny, steps = TINY[name], 10
    model = tiny.build()
    plain = sample(model, tiny, steps)
    assert torch.equal(sample(calibrating(model), tiny, steps), plain), "it skips nothing"
    calibration = read(folder)
    assert calibration.model == tiny.network
    for measured in calibration.branches.values():
        assert len(measured.sigmas) == steps
        assert measured.sigmas == sorted(measured.sigmas, reverse=True)

    file = f"{calibration.name}.json"
    assert file in MagCache.INPUT_TYPES()["optional"]["calibration"][0]
    (cached,) = MagCache().apply(model, "auto", 10.0, 0.1, 1, 0, -1, calibration=file)
    with count_blocks(cached, tiny) as counts:
        sample(cached, tiny, steps)
    assert str(counts) == "#." * 5


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_any_number_of_steps(steps: int, folder: Path) -> None:
    sample(calibrating(WAN.build()), WAN, steps)
    measured = read(folder).branches
    assert {len(branch.ratios) for branch in measured.values()} == {steps}


@pytest.mark.parametrize(
    ("cfg", "tokens", "branches"), [(3.0, 6, 2), (3.0, 9, 2), (1.0, 6, 1)],
    ids=["CFG in one call", "CFG in two calls", "no CFG"],
)  # fmt: skip
def test_branches_are_measured_apart(cfg: float, tokens: int, branches: int, folder: Path) -> None:
    # Flux's texts of two lengths cannot share a call.
    tiny = TINY["flux"]
    model = tiny.build()
    conds = tiny.conds(tokens=tokens)
    sample(calibrating(model), tiny, 6, cfg=cfg, conds=conds)
    measured = read(folder).branches
    assert set(measured) == {"cond", "uncond"} if branches == 2 else {"cond"}
    assert {len(branch.ratios) for branch in measured.values()} == {6}


def test_one_call_or_two_measure_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = WAN.build()
    sample(calibrating(model), WAN, 6)
    together = read(folder).branches
    for path in folder.glob("*.json"):
        path.unlink()
    monkeypatch.setattr(model.model, "memory_required", lambda *_, **__: 1 << 60)  # for one row
    sample(calibrating(model), WAN, 6)
    apart = read(folder).branches
    for branch, measured in together.items():
        assert apart[branch].ratios == pytest.approx(measured.ratios, abs=1e-5)


def test_a_summary_is_logged_and_shown_on_the_node(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shown: list[tuple[str, str | None]] = []
    monkeypatch.setattr(host, "show", lambda text, node: shown.append((text, node)))
    caplog.set_level(logging.DEBUG, logger="magcache")
    (model,) = MagCacheCalibration().apply(WAN.build(), "wan2.1_t2v_1.3B", node_id="7")
    sample(model, WAN, 5)
    text, node = shown[-1]
    (path,) = folder.glob("*.json")
    assert node == "7"
    assert text == f"5 steps measured, stored as {path.stem}"
    lines = [each.getMessage() for each in caplog.records if each.levelno >= logging.INFO]
    assert lines == [f"MagCache Calibration: {text}"]
    for figures in (f"written to {path}", "cond: 5 evaluations, ratio ", "cosine distance"):
        assert figures in caplog.text


def test_a_file_says_what_it_was_made_with(folder: Path) -> None:
    sample(calibrating(WAN.build()), WAN, 5, sampler="dpmpp_2m", scheduler="beta", cfg=2.5)
    data = json.loads(next(folder.glob("*.json")).read_text())
    scheduler = WAN.build().get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(scheduler, "beta", 5).tolist()
    assert data["settings"] == {
        "model_type": "WanModel", "steps": 5, "host": f"ComfyUI {comfyui_version.__version__}",
        "sampler": "dpmpp_2m", "guider": "CFGGuider", "cfg": 2.5, "shift": 8.0,
        "latent": list(WAN.shape), "sigmas": sigmas,
    }  # fmt: skip
    assert data["branches"]["cond"]["sigmas"] == pytest.approx(sigmas[:-1])


def test_a_guider_that_takes_two_scales_is_not_given_a_third(folder: Path) -> None:
    guider = Guider_DualCFG(calibrating(WAN.build()))
    positive, negative = WAN.conds()
    guider.set_conds(positive, positive, negative)
    guider.set_cfg(2.0, 3.0)
    euler = comfy.samplers.sampler_object("euler")
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    guider.sample(torch.randn(WAN.shape), WAN.latent(), euler, sigmas, disable_pbar=True, seed=1)
    made_with = read(folder).settings
    assert made_with["guider"] == "Guider_DualCFG"
    assert {name: made_with[name] for name in made_with if name.startswith("cfg")} == {
        "cfg1": 2.0, "cfg2": 3.0,
    }  # fmt: skip


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_every_sampler_is_known_by_its_name(sampler: str) -> None:
    guider = comfy.samplers.CFGGuider(WAN.build(depth=1))
    function = comfy.samplers.sampler_object(sampler)
    found = host.described(guider, function, torch.tensor([1.0, 0.0]), (1,))["sampler"]
    assert found == OTHER_NAMES.get(sampler, sampler)


def test_a_file_without_or_with_other_settings_is_read(folder: Path) -> None:
    sample(calibrating(WAN.build()), WAN, 4)
    path = next(folder.glob("*.json"))
    data = json.loads(path.read_text())
    del data["checksum"]
    for settings in (None, {}, {"sampler": "a newer one", "more": [1, {"deep": None}]}):
        changed = {**data, "settings": settings}
        if settings is None:
            del changed["settings"]
        path.write_text(json.dumps(changed))
        assert read(folder).settings == (settings or {})
        (model,) = MagCache().apply(WAN.build(), "auto", 9, 0.1, 1, 0, -1, calibration=path.name)
        sample(model, WAN, 4)


def test_two_samplings_within_a_second_are_two_files(folder: Path) -> None:
    model = calibrating(WAN.build())
    for cfg in (2.0, 3.0, 4.0):
        sample(model, WAN, 2, cfg=cfg)
    assert len(list(folder.glob("*.json"))) == 3


BAD = {
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a pipe": os.mkfifo,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a deep nest": lambda path: path.write_text("[" * 200_000),
    "no text for a name": lambda path: path.with_name(os.fsdecode(b"\xff.json")).touch(),
}
"""What may lie in the folder, by what makes it."""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_costs_a_warning_and_neither_a_sampling_nor_a_list(
    kind: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sample(calibrating(WAN.build()), WAN, 10)
    good = next(folder.glob("*.json")).name
    BAD[kind](folder / "bad.json")
    for node in (MagCache, MagCacheTargetSpeed):
        groups = node.INPUT_TYPES().values()
        (listed,) = [group["calibration"][0] for group in groups if "calibration" in group]
        assert good in listed and json.dumps(listed).isascii()
    for _ in range(2):
        (cached,) = MagCacheTargetSpeed().apply(WAN.build(), 2.0, "automatic")
        with count_blocks(cached, WAN) as counts:
            sample(cached, WAN, 10)
        assert "." in str(counts)
    assert sum("was ignored" in message for message in caplog.messages) == 1


def test_a_chosen_pipe_is_an_error_at_the_node(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "bad.json")
    assert MagCacheTargetSpeed.VALIDATE_INPUTS(calibration="bad.json") is True
    with pytest.raises(CalibrationError, match=r"bad\.json .*it is not a regular file"):
        MagCache().apply(WAN.build(), "auto", 0.1, 0.1, 2, 0, -1, calibration="bad.json")


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "a\ud800", "../x.json", "CON.json", 5, ""])
def test_a_workflow_may_hold_any_name(name: Any, folder: Path) -> None:
    assert "cannot be the name" in str(MagCacheTargetSpeed.VALIDATE_INPUTS(calibration=name))
    assert MagCache.IS_CHANGED(calibration=name) == 0


def test_a_full_or_locked_disk_costs_the_file_and_not_the_image(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_text("a file where the folder should be", encoding="utf-8")
    caplog.set_level(logging.INFO, logger="magcache")
    model = WAN.build()
    assert torch.equal(sample(calibrating(model), WAN, 3), sample(model, WAN, 3))
    assert "3 steps measured, NOT stored" in caplog.text


def test_a_calibration_of_another_model_is_refused(folder: Path) -> None:
    sample(calibrating(WAN.build()), WAN, 4)
    file = next(folder.glob("*.json")).name
    flux = TINY["flux"].build()
    with pytest.raises(CalibrationError, match="measured on WanModel, but the model is Flux"):
        MagCache().apply(flux, "auto", 0.1, 0.1, 2, 0, -1, calibration=file)


def test_a_missing_file_is_named_with_those_that_are_there(folder: Path) -> None:
    with pytest.raises(CalibrationError, match=r"no calibration none\.json .*no calibration yet"):
        calibrations.find("none.json")
    folder.mkdir()
    (folder / "mine.json").touch()
    with pytest.raises(CalibrationError, match=r"which has mine\.json"):
        calibrations.find("none.json")


def test_another_file_of_the_same_name_is_another_input(folder: Path) -> None:
    folder.mkdir()
    file = folder / "mine.json"
    file.touch()
    os.utime(file, (1, 1))
    before = MagCache.IS_CHANGED(calibration="mine.json", model=None, model_type="auto")
    os.utime(file, (2, 2))
    assert MagCache.IS_CHANGED(calibration="mine.json") != before
    assert MagCache.IS_CHANGED() == MagCache.IS_CHANGED(calibration="none.json")
