"""Nothing bad is stored, and a model with LoRAs finds its own measurement again."""

from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import pytest
import torch
from comfy.weight_adapter.lora import LoRAAdapter
from test_beside_nodes import lora
from tiny_models import FURTHER, TINY, Tiny, sample
from watch import Cached, watching

from magcache.curves import Calibration
from magcache.hosts.comfyui import calibrations
from magcache.hosts.comfyui.nodes.calibration import MagCacheCalibration
from magcache.hosts.comfyui.nodes.magcache import MagCache
from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed

WAN, NEW = TINY["wan_t2v"], FURTHER["lumina2"]  # with and without a published curve
KEY = "diffusion_model.blocks.1.self_attn.q.weight"
OTHER_KEY = "diffusion_model.blocks.0.self_attn.k.weight"
STEPS = 12


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    return tmp_path / "magcache"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that nodes have shown."""
    texts: list[str] = []
    monkeypatch.setattr(calibrations.host, "show", lambda text, _node: texts.append(text))
    return texts


def stored(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.json"))


def alone(model: Any) -> Any:
    return MagCache().apply(model, "auto", 0.3, 0.1, 2, 0, -1, node_id="7")[0]


def measuring(model: Any) -> Any:
    return MagCacheCalibration().apply(model, "auto", "7")[0]


def faster(model: Any) -> Cached:
    return watching(MagCacheTargetSpeed().apply(model, 2.0, "automatic")[0])


def spoil(model: Any, tiny: Tiny, value: float, call: int = 3) -> Any:
    """Has a block return a value at one entry of the last row in one call."""
    calls = iter(range(10_000))

    def broken(_block: Any, _args: Any, output: Any) -> Any:
        if next(calls) == call:
            (output[0] if isinstance(output, tuple) else output)[-1, 0, 0] = value
        return output

    tiny.blocks(model)[-1].register_forward_hook(broken)
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("node", [alone, measuring])
def test_a_measurement_that_holds_no_number_is_not_stored(
    node: Any, value: float, folder: Path, shown: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = spoil(NEW.build(), NEW, value)
    with caplog.at_level("INFO", "magcache"):
        sample(node(model), NEW, STEPS)
    assert not stored(folder)
    assert "nothing was stored" in shown[-1] and "held NaN or Inf" in shown[-1]
    assert "try bfloat16 or float32" in shown[-1] and "faster" not in caplog.text


def test_a_sound_measurement_says_that_it_is_used(folder: Path, shown: list[str]) -> None:
    sample(alone(NEW.build()), NEW, STEPS)
    assert "the next run of this model will be faster" in shown[-1]
    assert len(stored(folder)) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_sampling_that_met_no_number_teaches_nothing(value: float, folder: Path) -> None:
    fast = faster(spoil(WAN.build(), WAN, value))
    sample(fast.model, WAN, STEPS)
    assert not stored(folder)
    (said,) = fast.samplings[-1].report().warnings
    assert "NaN or Inf" in said and "try bfloat16 or float32" in said


@pytest.mark.parametrize("other", ["EasyCache", "LazyCache"])
def test_beside_another_cache_nothing_is_learned(other: str, folder: Path) -> None:
    from test_beside_nodes import node

    inputs = {"start_percent": 0.1, "end_percent": 0.95, "verbose": False}
    fast = faster(WAN.build())
    both = node("nodes_easycache", f"{other}Node", fast.model, reuse_threshold=0.5, **inputs)
    sample(both, WAN, STEPS)
    assert not stored(folder)
    assert f"{other} is on the same model" in fast.samplings[-1].report().missing


# Which model is it


def change(model: Any) -> Any:
    with torch.no_grad():
        for weight in model.model.diffusion_model.parameters():
            weight.mul_(1.01)
    return model


def test_a_measurement_of_other_weights_is_not_taken_for_ones_own(folder: Path) -> None:
    sample(alone(NEW.build()), NEW, STEPS)
    other = watching(alone(change(NEW.build())))
    sample(other.model, NEW, STEPS)
    assert other.run.calibrator and len(stored(folder)) == 2
    sample(other.model, NEW, STEPS)
    assert other.run.skipped and "same weights" in other.samplings[-1].report().warnings[0]


def test_a_file_from_before_all_weights_were_read_is_found_by_architecture(folder: Path) -> None:
    sample(measuring(NEW.build()), NEW, STEPS)
    (path,) = stored(folder)
    old = Calibration.load(path)
    assert old.identity
    old.identity["weights"] = "0123456789ab"
    old.save(path)
    found = watching(alone(NEW.build()))
    sample(found.model, NEW, STEPS)
    assert found.run.skipped
    assert "same architecture, other weights" in found.samplings[-1].report().warnings[0]


def identity(model: Any) -> Any:
    return calibrations.notebook(model).identity


def test_patches_are_known_by_what_they_hold() -> None:
    model = WAN.build()
    plain, patched = identity(model), identity(lora(model, KEY))
    assert patched == identity(lora(WAN.build(), KEY)) == identity(lora(model, KEY).clone())
    assert patched.weights == plain.weights and patched.patches and not plain.patches
    others = [lora(model, KEY, 0.5), lora(model, OTHER_KEY), lora(lora(model, KEY), OTHER_KEY)]
    assert len({plain, patched, *map(identity, others)}) == 5


def test_adapters_are_told_apart_by_their_weights() -> None:
    model = WAN.build()
    rows, columns = model.model.state_dict()[KEY].shape

    def adapted(seed: int, alpha: float = 1.0) -> Any:
        generator = torch.Generator().manual_seed(seed)
        up = torch.randn(rows, 2, generator=generator)
        down = torch.randn(2, columns, generator=generator)
        clone = model.clone()
        adapter = LoRAAdapter({"a", "b"}, (up, down, alpha, None, None, None))
        assert clone.add_patches({KEY: adapter}, 0.8)
        return clone

    assert identity(adapted(1)) == identity(adapted(1))
    assert len({identity(adapted(*each)) for each in ((1,), (2,), (1, 2.0))}) == 3


def test_a_model_is_the_same_one_while_patches_of_a_clone_lie_on_its_weights() -> None:
    model = WAN.build()
    patched = lora(model, KEY)
    before = identity(model), identity(patched)
    comfy.model_management.load_models_gpu([patched], force_full_load=True)
    assert patched.backup, "its patches lie on the weights that both share"
    assert (identity(model), identity(patched)) == before
    comfy.model_management.unload_all_models()
    assert (identity(model), identity(patched)) == before


def test_a_model_with_a_lora_finds_its_own_measurement_again(folder: Path) -> None:
    key = next(
        k for k in NEW.build().model.state_dict() if k.endswith("layers.0.attention.qkv.weight")
    )
    sample(alone(NEW.build()), NEW, STEPS)
    for measured in (True, False, False):
        found = watching(alone(lora(NEW.build(), key)))
        sample(found.model, NEW, STEPS)
        assert bool(found.run.calibrator) is measured
    assert "same weights" in found.samplings[-1].report().warnings[0]
    assert len(stored(folder)) == 2


def test_a_model_with_a_lora_goes_on_in_its_own_notebook(folder: Path) -> None:
    for patches in ((), (KEY,), (OTHER_KEY,), (KEY,), ()):
        model = WAN.build()
        for key in patches:
            model = lora(model, key)
        sample(faster(model).model, WAN, STEPS)
    assert len(stored(folder)) == 3
