"""The MagCache node left to itself: what curve it follows, and what it measures on the side."""

from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from tiny_models import FURTHER, TINY, sample
from watch import Cached, calibrate, watching

from magcache.hosts.comfyui.nodes.magcache import MagCache

WAN, NEW = TINY["wan_t2v"], FURTHER["lumina2"]
STEPS = 10
AUTO = "auto"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    return tmp_path / "magcache"


def magcache(model: Any, kind: str = AUTO, threshold: float = 0.3, **options: Any) -> Cached:
    """The node's output, with a record of its samplings."""
    return watching(MagCache().apply(model, kind, threshold, 0.1, 2, 0, -1, **options)[0])


def notes(found: Cached) -> str:
    return " ".join(found.samplings[-1].report().warnings)


def test_a_model_without_a_curve_is_measured_and_then_accelerated(folder: Path) -> None:
    model = NEW.build()
    plain = sample(model, NEW, STEPS)
    found = magcache(model)
    assert torch.equal(sample(found.model, NEW, STEPS), plain), "it is measured on the side"
    assert found.run.skipped == 0 and len(list(folder.glob("*.json"))) == 1
    sample(found.model, NEW, STEPS)
    assert found.run.skipped > 0 and f"same weights, {STEPS} steps" in notes(found)
    assert found.run.decider.keep == 2, "its residuals are predicted, not reused"


def test_published_switches_the_measuring_off(folder: Path, caplog: Any) -> None:
    model = NEW.build()
    assert MagCache().apply(model, AUTO, 0.3, 0.1, 2, 0, -1, calibration="published")[0] is model
    assert "runs uncached" in caplog.text
    assert not folder.exists()


def test_of_a_model_with_a_published_curve_nothing_is_measured(folder: Path) -> None:
    found = magcache(WAN.build())
    sample(found.model, WAN, STEPS)
    assert found.run.skipped > 0 and found.run.label.startswith("wan2.1")
    assert not folder.exists()


def stored(model: Any) -> None:
    """Has a calibration made by another node."""
    calibrate(model, WAN, STEPS)


def test_a_stored_calibration_of_the_very_model_goes_before_the_published_curve() -> None:
    model = WAN.build()
    stored(model)
    found = magcache(model)
    sample(found.model, WAN, STEPS)
    assert "same weights" in notes(found) and not found.run.label.startswith("wan2.1")


@pytest.mark.parametrize(
    ("kind", "calibration"), [(AUTO, "published"), ("wan2.1_t2v_1.3B", "automatic")]
)
def test_a_type_or_the_published_curve_chosen_by_hand_goes_before_all(
    kind: str, calibration: str
) -> None:
    model = WAN.build()
    stored(model)
    found = magcache(model, kind, calibration=calibration)
    sample(found.model, WAN, STEPS)
    assert found.run.label.startswith("wan2.1")


def test_a_calibration_of_other_weights_does_not_replace_the_published_curve() -> None:
    stored(WAN.build())
    other = WAN.build()
    with torch.no_grad():
        for weight in other.model.diffusion_model.parameters():
            weight.mul_(1.01)
    found = magcache(other)
    sample(found.model, WAN, STEPS)
    assert found.run.label.startswith("wan2.1")


def test_recommended_values_stay_the_model_types_own() -> None:
    model = WAN.build()
    stored(model)
    measured, published = (
        magcache(model, recommended=True),
        magcache(model, recommended=True, calibration="published"),
    )
    rules: list[Any] = []
    for found in (measured, published):
        sample(found.model, WAN, STEPS)
        rules.append(found.samplings[-1].settings.asked)
    assert rules[0] == rules[1]


def test_skipping_nothing_stays_the_original_while_it_is_measured(folder: Path) -> None:
    model = NEW.build()
    found = magcache(model, threshold=0.0)
    for _ in range(2):
        assert torch.equal(sample(found.model, NEW, STEPS), sample(model, NEW, STEPS))
    assert len(list(folder.glob("*.json"))) == 1
