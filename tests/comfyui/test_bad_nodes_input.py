"""What users can get wrong at the nodes, and what they are told."""

import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import TINY, sample

from magcache.hosts.comfyui.models import MODEL_TYPES, OLD_NAMES
from magcache.hosts.comfyui.nodes.calibration import MagCacheCalibration
from magcache.hosts.comfyui.nodes.compile import CompileModel
from magcache.hosts.comfyui.nodes.magcache import MagCache

WAN = TINY["wan_t2v"]
NODES = {
    "MagCache": lambda m, kind="auto": MagCache().apply(m, kind, 0.1, 0.1, 2, 0, -1),
    "MagCacheCalibration": lambda m, kind="auto": MagCacheCalibration().apply(m, kind),
    "CompileModel": lambda m, kind="": CompileModel().apply(m, "default", "eager", False, False),
}


@pytest.fixture(scope="module")
def wan() -> Any:
    return WAN.build()


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("wrong", [None, "model.safetensors", SimpleNamespace(model=None)])
def test_what_is_no_model_is_told_so(node: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match="`model` must be a loaded diffusion model, not"):
        NODES[node](wrong)


@pytest.mark.parametrize("node", ["MagCache", "MagCacheCalibration"])
def test_another_models_type_names_both(node: str, wan: Any) -> None:
    with pytest.raises(ValueError, match=r"model_type chroma is for Chroma, but .* is WanModel"):
        NODES[node](wan, "chroma")


@pytest.mark.parametrize("node", ["MagCache", "MagCacheCalibration"])
def test_an_unknown_type_lists_what_there_is(node: str, wan: Any) -> None:
    with pytest.raises(ValueError, match="unknown model_type wan9: choose auto or one of flux,"):
        NODES[node](wan, "wan9")


@pytest.mark.parametrize("node", ["MagCache", "MagCacheCalibration"])
def test_an_unsupported_model_samples_as_it_is_with_one_warning(
    node: str, wan: Any, caplog: pytest.LogCaptureFixture
) -> None:
    network = wan.model.diffusion_model
    plain = sample(wan, WAN, 3)
    try:
        network.__class__ = type("SomeNewModel", (torch.nn.Module,), dict(vars(type(network))))
        (model,) = NODES[node](wan)
        assert torch.equal(sample(model, WAN, 3), plain)
    finally:
        network.__class__ = type(WAN.build().model.diffusion_model)
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "runs uncached" in warnings[0].message and "SomeNewModel" in warnings[0].message


@pytest.mark.parametrize(("start", "end"), [(5, 3), (-3, -5)])
def test_an_end_before_the_start_is_an_error(start: int, end: int, wan: Any) -> None:
    with pytest.raises(ValueError, match=f"end_step {end} lies before start_step {start}"):
        MagCache().apply(wan, "auto", 0.1, 0.1, 2, start, end)


@pytest.mark.parametrize(("start", "end"), [(6, -1), (0, -7), (-2, 3), (100, 200)])
def test_a_window_without_a_step_is_a_warning(
    start: int, end: int, wan: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (model,) = MagCache().apply(wan, "auto", 0.3, 0.1, 2, start, end)
    assert torch.equal(sample(model, WAN, 6), sample(wan, WAN, 6))
    assert f"start_step {start} to end_step {end} leaves none of the 6 steps" in caplog.text


@pytest.mark.parametrize("node", [MagCache, MagCacheCalibration])
@pytest.mark.parametrize("name", [*MODEL_TYPES, *OLD_NAMES, "auto"])
def test_every_type_that_a_workflow_may_hold_is_valid(node: Any, name: str) -> None:
    offered = node.INPUT_TYPES()["required"]["model_type"][0]
    assert name in offered
    assert (name in json.loads(json.dumps(offered))) is (name not in OLD_NAMES)


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.3])
def test_a_retention_ratio_in_range_is_valid(ratio: float) -> None:
    assert MagCache.VALIDATE_INPUTS(ratio) is True


def test_a_retention_ratio_that_another_node_gives_is_not_known_beforehand() -> None:
    assert MagCache.VALIDATE_INPUTS() is True


@pytest.mark.parametrize("ratio", [0.0, 0.5, float("nan"), float("inf"), -1.0])
def test_a_retention_ratio_out_of_range_is_not(ratio: float) -> None:
    said = MagCache.VALIDATE_INPUTS(ratio)
    assert said == f"{ratio:g} is outside 0.1 to 0.3: choose a value in between"
