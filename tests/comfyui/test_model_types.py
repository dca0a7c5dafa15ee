"""Which published curve a model follows: what auto finds, and what workflows hold."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import nodes
import pytest
import torch
from test_families import EVERY, FITTING, magcache
from tiny_models import FURTHER, TINY, sample

from magcache.doctor.tiny import ALL
from magcache.hosts.comfyui import detect, models
from magcache.hosts.comfyui import wrappers as host
from magcache.hosts.comfyui.models import MODEL_TYPES, OLD_NAMES, Model, class_name
from magcache.hosts.comfyui.nodes.calibration import MagCacheCalibration
from magcache.hosts.comfyui.settings import settings_on

OLD_15 = ("hunyuan_video1.5", "hunyuan_video")  # of one class; older versions have the second only


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the presets that finished samplings used."""
    names: list[str] = []
    finish = host._finish

    def spy(sampling: host.Sampling) -> None:
        if sampling.settings.source:
            names.append(sampling.settings.source.name)
        finish(sampling)

    monkeypatch.setattr(host, "_finish", spy)
    return names


WIDE = {
    "wan2.1_t2v_14B": ("wan_t2v", "dim", 5120),
    "wan2.1_vace_14B": ("wan_vace", "dim", 5120),
    "kandinsky5_pro": ("kandinsky5", "model_dim", 4096),
}
LARGE = {"wan2.1_i2v_480p_14B": (60, 104), "wan2.1_i2v_720p_14B": (90, 160)}
"""What a tiny model cannot show by itself."""


@pytest.mark.parametrize("name", EVERY)
def test_auto_finds_the_model_type(name: str, found: list[str]) -> None:
    tiny = TINY[name]
    sample(magcache(tiny.build(), "auto"), tiny, 1)
    assert found == [MODEL_TYPES[tiny.types[0]].preset]


def test_auto_is_tried_on_every_model_type() -> None:
    tried = {tiny.types[0] for tiny in ALL if tiny.types} | {*WIDE} | {*LARGE} | {TOLD[0]}
    assert tried == {*MODEL_TYPES}, (
        "give it a tiny model in magcache/doctor/tiny whose `types` begin with it, and say in its "
        "row how auto knows it"
    )


def test_auto_takes_a_type_as_soon_as_it_has_a_row(
    found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = FURTHER["lumina2"]
    model = tiny.build()
    assert detect.model_type(model) is None
    row = Model("lumina2_new", class_name(model), preset="chroma")
    monkeypatch.setitem(MODEL_TYPES, row.name, row)
    sample(magcache(model, "auto"), tiny, 1)
    assert detect.model_type(model) == row.name and found == ["chroma"]


def test_auto_takes_flux_for_kontext_only_in_samplings_with_reference_latents(
    found: list[str],
) -> None:
    model = magcache(TINY["flux"].build(), "auto")
    for name in ("flux", "flux_kontext", "flux"):
        sample(model, TINY[name], 1)
    assert found == ["flux", "flux_kontext", "flux"]


@pytest.mark.parametrize("model_type", LARGE)
def test_auto_tells_720p_by_the_latent(model_type: str, found: list[str]) -> None:
    tiny = TINY["wan_i2v"]
    model = magcache(tiny.build(depth=1), "auto")
    sample(model, tiny, 1, cfg=1.0, latent=torch.zeros(1, 16, 2, *LARGE[model_type]))
    assert found == [MODEL_TYPES[model_type].preset]


@pytest.mark.parametrize("model_type", WIDE)
def test_auto_tells_large_models_by_their_width(model_type: str) -> None:
    name, size, width = WIDE[model_type]
    if name not in TINY:
        pytest.skip(f"this ComfyUI has no {name}")
    model = TINY[name].build()
    setattr(model.model.diffusion_model, size, width)
    assert detect.model_type(model) == model_type


TOLD = "wan2.2_t2v_14B", "wan2.1_t2v_14B"


@pytest.fixture
def every_width_is_14b(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_WIDE", 100)


def taken_for(model: Any) -> list[str]:
    """What the report says of what was taken."""
    return [note for note in settings_on(model).watch.last.warnings if "taken for" in note]


PARTS = {
    "whole": (0, 1000, "enable", "disable"),
    "first": (0, 9, "enable", "enable"),
    "second": (9, 1000, "disable", "disable"),
    "img2img": (9, 1000, "enable", "disable"),
}


@pytest.mark.usefixtures("every_width_is_14b")
@pytest.mark.parametrize("part", PARTS)
def test_auto_takes_two_samplers_on_one_trajectory_for_wan_22(part: str, found: list[str]) -> None:
    """With img2img, which begins as late, noise is added."""
    first, last, adds, leaves = PARTS[part]
    tiny = TINY["wan_t2v"]
    model, latent = magcache(tiny.build(), "auto"), {"samples": tiny.latent()}
    nodes.KSamplerAdvanced().sample(
        model, adds, 1, 20, 1.0, "euler", "simple", *tiny.conds(), latent, first, last, leaves
    )
    is_22 = part in ("first", "second")
    assert found == [TOLD[0] if is_22 else TOLD[1]]
    (note,) = taken_for(model)
    assert note.startswith(f"taken for Wan 2.{2 if is_22 else 1}")
    assert note.endswith(f"choose {TOLD[is_22]}")


@pytest.mark.usefixtures("every_width_is_14b")
@pytest.mark.parametrize(
    ("file", "model_type"),
    [
        ("wan2.2_t2v_high_noise_14B_fp8_scaled", TOLD[0]),
        ("Wan2_2-T2V-A14B-LOW_fp8_e4m3fn", TOLD[0]),
        ("my_low_noise_finetune", TOLD[0]),
        ("wan2.1_t2v_14B_fp16", TOLD[1]),
        ("Wan2_1-T2V-14B_fp8", TOLD[1]),
    ],
)
def test_auto_tells_wan_22_by_the_files_name_where_comfyui_keeps_it(
    file: str, model_type: str, found: list[str], tmp_path: Path
) -> None:
    tiny, path = TINY["wan_t2v"], tmp_path / f"{file}.safetensors"
    comfy.utils.save_torch_file(tiny.build().model.diffusion_model.state_dict(), str(path))
    model = comfy.sd.load_diffusion_model(str(path), {"dtype": torch.float32})
    kept = hasattr(model, "cached_patcher_init")
    model = magcache(model, "auto")
    sample(model, tiny, 9)
    assert found == [model_type if kept else TOLD[1]]
    assert bool(taken_for(model)) != kept


@pytest.mark.parametrize("model_type", ["auto", "wan2.2_ti2v_5B"])
def test_the_5B_model_follows_its_own_list_in_samplings_from_an_image(
    model_type: str, found: list[str]
) -> None:
    """As ComfyUI's node for it makes its latent: with an image its first frame is masked."""
    tiny = TINY["wan_ti2v"]
    model = magcache(tiny.build(), model_type)
    vae = SimpleNamespace(encode=lambda pixels: torch.ones(1, 48, 1, 4, 4))
    node = importlib.import_module("comfy_extras.nodes_wan").Wan22ImageToVideoLatent

    def run(image: torch.Tensor | None, mask: torch.Tensor | None = None) -> None:
        latent = node.execute(vae, 64, 64, 5, 1, image).result[0]
        mask = latent.get("noise_mask") if mask is None else mask
        sample(model, tiny, 2, latent=latent["samples"], noise_mask=mask)

    part_of_each_frame = torch.ones(1, 1, 64, 64)
    part_of_each_frame[..., :32] = 0
    run(None)
    run(torch.rand(1, 64, 64, 3))
    run(None, part_of_each_frame)
    assert found == ["wan2.2_ti2v_5B", "wan2.2_ti2v_5B_i2v", "wan2.2_ti2v_5B"]


@pytest.mark.parametrize(
    "model_type", [name for name, row in MODEL_TYPES.items() if row.from_image]
)
def test_a_first_frame_in_the_conditions_selects_the_list_for_images(
    model_type: str, found: list[str]
) -> None:
    """As Kandinsky5ImageToVideo gives it, or HunyuanVideo15ImageToVideo."""
    if (tiny := TINY.get(FITTING[model_type])) is None:
        pytest.skip(f"this ComfyUI has no {FITTING[model_type]}")
    model, conds = magcache(tiny.build(), model_type), tiny.conds()
    batch, channels, frames, *sides = tiny.shape
    whole = model_type.startswith("hunyuan")
    name, count = ("concat_latent_image", frames) if whole else ("time_dim_replace", 1)
    for (_, more), *_ in conds:
        more[name] = torch.zeros(batch, channels, count, *sides)
    sample(model, tiny, 1)
    sample(model, tiny, 1, conds=conds)
    row = MODEL_TYPES[model_type]
    assert found == [row.preset, row.from_image]


OLD_FITTING = {**FITTING, "hunyuan_video1.5": next(n for n in OLD_15 if n in TINY)}


@pytest.mark.parametrize("old", OLD_NAMES)
def test_values_of_older_workflows_do_on_their_own_family_what_the_newer_ones_do(
    old: str, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_type, tiny = OLD_NAMES[old], TINY[OLD_FITTING[OLD_NAMES[old]]]
    model, settings = tiny.build(), {"magcache_thresh": 0.3, "magcache_K": 2}
    outputs = [sample(magcache(model, name, **settings), tiny, 10) for name in (old, model_type)]
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], sample(model, tiny, 10))
    assert found == [MODEL_TYPES[model_type].preset] * 2

    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    (calibrating,) = MagCacheCalibration().apply(model, old)
    assert torch.equal(sample(calibrating, tiny, 4), sample(model, tiny, 4))
    (file,) = (tmp_path / "magcache").glob("*.json")
    assert file.name.startswith(f"{model_type}-4steps-")
