"""The families without a published curve: they are measured first, and then accelerated."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from fidelity import fidelity, flat
from tiny_models import FURTHER, TINY, UNFIT, count_blocks, sample
from watch import calibrate, difference, without_residuals

from magcache.curves.calibration import Calibration
from magcache.doctor.tiny import ALL, Tiny
from magcache.hosts.comfyui import detect, models
from magcache.hosts.comfyui.nodes.calibration import MagCacheCalibration
from magcache.hosts.comfyui.nodes.magcache import MagCache
from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed

STEPS = 9
EVEN = (
    "pixart", "mochi", "kandinsky5", "cosmos_predict2", "cosmos_predict2_i2v", "minimax_h3",
)  # fmt: skip
"""What cannot be sampled in odd sizes, in one of the versions at least."""
PLAINER = ("longcat", "cosmos_predict2", "z_image", "cogvideox")
"""Models of which another, that is given more, is sampled at length."""
SEVERAL_OR_SHAPED = ("sd3", "hidream", "ltx2", "minimax_h3", "z_image_pixel", "kandinsky5")
"""Models with several streams, or whose head sees another shape than (B, tokens, channels)."""

OPTIONAL = (
    "reference_latents", "reference_latents_method", "reference_latents_text_embeds",
    "clip_vision_outputs", "concat_latent_image", "concat_mask", "time_dim_replace",
    "minimax_keyframes", "t5xxl_ids", "conditioning_byt5small",
)  # fmt: skip
"""What conditions hold that a model can do without."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    return tmp_path / "magcache"


def given_freely() -> list[tuple[str, str]]:
    """The names of models and of what they could do without."""
    found = []
    for name, tiny in FURTHER.items():
        _, more = tiny.conds()[0][0]
        found += [(name, key) for key in more if key in OPTIONAL]
    return found


def off_size(tiny: Tiny) -> Tiny:
    """The same with a latent whose sides are no multiples of two."""
    *rest, height, width = tiny.shape
    return tiny if tiny.name in EVEN else replace(tiny, shape=(*rest, height - 1, width - 3))


def test_every_family_of_the_table_is_tried() -> None:
    assert {*models.FAMILIES} <= {tiny.network for tiny in ALL}


def test_a_model_that_a_version_cannot_make_tiny_is_not_built() -> None:
    with pytest.raises(RuntimeError, match=r"cannot make it tiny: it has 11,[0-9,]{11} weights"):
        TINY["flux"].build(hidden_size=3072, num_heads=24, depth=19, depth_single_blocks=38)


@pytest.mark.parametrize("name", ["flux2", "longcat", "hunyuan_image"])
def test_auto_takes_no_curve_of_another_model_of_the_same_class(name: str) -> None:
    if name not in FURTHER:
        pytest.skip(f"this ComfyUI has no {name}")
    curve, why = detect.published(FURTHER[name].build(), "auto")
    assert curve is None and FURTHER[name].config in why


@pytest.mark.parametrize(("name", "key"), given_freely())
def test_what_a_model_is_given_beside_the_text_acts(name: str, key: str) -> None:
    """Else the tests below would try nothing of its own."""
    tiny = FURTHER[name]
    model, conds = tiny.build(), tiny.conds()
    bare = tuple(
        [[text, {k: v for k, v in more.items() if k != key}] for text, more in cond]
        for cond in conds
    )
    assert difference(flat(sample(model, tiny, 2)), flat(sample(model, tiny, 2, conds=bare))) > 0.01


@pytest.mark.parametrize("name", FURTHER)
def test_a_skip_with_the_true_residual_gives_the_models_output(name: str) -> None:
    """Also with texts of two lengths, in sizes that the model pads."""
    tiny = FURTHER[name]
    model = tiny.build()
    errors, _ = fidelity(model, tiny)
    odd, _ = fidelity(model, off_size(tiny), conds=tiny.conds(tokens=5))
    assert len(errors) >= 2 and len(odd) >= 2
    assert max(errors + odd) <= 1e-6


@pytest.mark.parametrize("name", [name for name in FURTHER if name not in PLAINER])
def test_a_calibrated_model_is_accelerated_by_its_blocks(name: str, folder: Path) -> None:
    tiny = FURTHER[name]
    model = tiny.build()
    plain = flat(sample(model, tiny, STEPS))
    (fast,) = MagCacheTargetSpeed().apply(model, 1.5, "automatic")
    assert torch.equal(flat(calibrate(model, tiny, STEPS)), plain)
    (path,) = folder.glob("*.json")
    assert Calibration.load(path).model == tiny.network
    with count_blocks(fast, tiny) as counts:
        output = flat(sample(fast, tiny, STEPS))
    assert counts.skipped == STEPS - int(STEPS / 1.5)
    depth = len(tiny.blocks(model))
    for evaluation in counts.evaluations:
        assert not any(blocks % depth for _, blocks in evaluation.calls)
    with without_residuals():
        worst = difference(flat(sample(fast, tiny, STEPS)), plain)
    assert 0 < difference(output, plain) < worst


@pytest.mark.parametrize("name", [name for name in SEVERAL_OR_SHAPED if name in FURTHER])
def test_a_calibration_file_lets_the_rule_skip(name: str, folder: Path) -> None:
    tiny = FURTHER[name]
    model = tiny.build()
    (measuring,) = MagCacheCalibration().apply(model, "auto")
    sample(measuring, tiny, STEPS)
    (file,) = folder.glob("*.json")
    (cached,) = MagCache().apply(model, "auto", 9.0, 0.1, 1, 0, -1, calibration=file.name)
    with count_blocks(cached, tiny) as counts:
        sample(cached, tiny, STEPS)
    assert str(counts) == "#.#.#.#.#"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record for record in caplog.records if record.name == "magcache"]
    return [record.getMessage() for record in found if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.parametrize("node", [MagCache, MagCacheCalibration, MagCacheTargetSpeed])
def test_what_does_not_fit_runs_uncached_and_says_why(
    name: str, node: type, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = UNFIT[name]
    model = tiny.build()
    if node is MagCacheTargetSpeed and not models.remembers(model):
        return  # its output can be predicted, see test_outputs.py
    widgets: dict[type, tuple[Any, ...]] = {
        MagCache: ("auto", 9.0, 0.1, 1, 0, -1),
        MagCacheCalibration: ("auto",),
        MagCacheTargetSpeed: (2.0, "automatic"),
    }
    (same,) = node().apply(model, *widgets[node])
    assert torch.equal(sample(same, tiny, 2), sample(model, tiny, 2))
    (warning,) = warnings(caplog)
    why = models.UNFIT[tiny.network]
    assert f"runs uncached: {tiny.network}'s blocks cannot be skipped: {why}" in warning
    assert not list(folder.glob("*.json"))
