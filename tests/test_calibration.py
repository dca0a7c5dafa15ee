"""Calibration files: what is written is read, and what cannot be read is named."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magcache.curves import Calibration, CalibrationError, Measurement
from magcache.curves.identity import Identity
from magcache.decide import Rule, Window, rule_of


def calibration(**changes: Any) -> Calibration:
    branches = {
        "cond": Measurement([1.0, 0.5, 0.25], [1.0, 0.5, 0.8], [0.0, 0.1, 0.2], [0.0, 0.01, 0.02]),
        "uncond": Measurement([1.0, 0.5, 0.25], [1.0, 0.9, 0.7], [0.0] * 3, [0.0] * 3),
    }
    settings = {"steps": 3, "sampler": "euler", "shift": None}
    return Calibration(**{"model": "Toy", "branches": branches, "settings": settings, **changes})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return calibration().save(tmp_path / "toy.json")


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    """Changes a file and takes its checksum off; returns its text."""
    data = json.loads(path.read_text(encoding="utf-8"))
    data.pop("checksum", None)
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path.read_text(encoding="utf-8")


def refuse(path: Path, message: str) -> None:
    """Loading names the file and the reason, and leaves the file as it is."""
    before = path.read_bytes()
    with pytest.raises(CalibrationError, match=message) as caught:
        Calibration.load(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_what_is_saved_is_loaded(saved: Path) -> None:
    assert Calibration.load(saved) == calibration()
    assert Calibration.load(str(saved)) == calibration()


def test_settings_of_the_rule_travel_with_it(tmp_path: Path) -> None:
    path = calibration(threshold=0.3, retention=0.1, max_skip=7).save(tmp_path / "a.json")
    loaded = Calibration.load(path)
    assert rule_of(loaded) == Rule(0.3, 7, 0.1, in_short_runs=False)
    assert rule_of(loaded, max_skip=2, threshold=None, window=Window(end_step=-2)) == Rule(
        0.3, 2, 0.1, Window(end_step=-2)
    )


def test_the_curve_is_that_of_the_measured_ratios(saved: Path) -> None:
    curves = Calibration.load(saved).curves
    assert curves["cond"].ratios([1.0, 0.5, 0.25]) == pytest.approx([1, 0.5, 0.8])
    assert curves["uncond"].ratio(1.0, 0.25) == pytest.approx(0.63)


def test_the_trajectory_is_the_measured_one() -> None:
    assert calibration().trajectory().sigmas == (1.0, 0.5, 0.25)
    assert calibration().trajectory(2, shift=1).sigmas == (1.0, 0.5)


def test_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "toy.json"
    assert calibration().save(path) == path and path.exists()


def test_a_new_file_replaces_the_old_one(saved: Path) -> None:
    calibration(name="newer").save(saved)
    assert Calibration.load(saved).name == "newer"
    assert os.listdir(saved.parent) == ["toy.json"]


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_failing_disk_leaves_the_old_file_and_no_scratch(
    saved: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def no_space(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, failing, no_space)
    with pytest.raises(OSError, match="no space left"):
        calibration(name="newer").save(saved)
    assert saved.read_bytes() == before and os.listdir(saved.parent) == ["toy.json"]


def test_settings_that_are_no_json_leave_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(CalibrationError, match=r"toy was not saved: .* not JSON serializable"):
        calibration(name="toy", settings={"sampler": object()}).save(saved)
    assert saved.read_bytes() == before and os.listdir(saved.parent) == ["toy.json"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"there is no calibration file .*none\.json"):
        Calibration.load(tmp_path / "none.json")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="is not a calibration file"):
        Calibration.load(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 40, 200])
def test_a_truncated_file_is_named(saved: Path, length: int) -> None:
    saved.write_bytes(saved.read_bytes()[:length])
    refuse(saved, "is not a calibration file")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"[1, 2]", b"7", b'"format"', b"{}", b'{"ratios": [1.0]}']
)
def test_a_foreign_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    refuse(path, "is not a calibration file")


@pytest.mark.parametrize("version", [4, 99, 0, "x"])
def test_another_format_says_what_to_do(saved: Path, version: Any) -> None:
    edited(saved, lambda data: data.update(format=version))
    refuse(
        saved, f"has calibration format {version}, but this MagCache reads up to 3: update MagCache"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.pop("branches"), "branches is missing"),
        (lambda data: data.pop("model"), "model is missing"),
        (lambda data: data.update(branches={}), "branches .*at least 1"),
        (lambda data: data.update(branches=[]), "branches must be an object"),
        (lambda data: data.update(branches={"cond": 7}), "branches.cond must be an object"),
        (lambda data: data.update(surplus=1), "surplus is not a field that this MagCache knows"),
        (lambda data: cond(data).pop("ratios"), "branches.cond.ratios is missing"),
        (lambda data: cond(data)["ratios"].pop(), "branches.cond.ratios must hold 3 values, not 2"),
        (lambda data: put(data, "ratios", 0.0), "branches.cond.ratios.1 must be greater than"),
        (lambda data: put(data, "ratios", math.nan), "ratios.1 must be a finite number"),
        (lambda data: put(data, "ratios", "0.5"), "branches.cond.ratios.1 must be a number"),
        (lambda data: put(data, "ratios", True), "branches.cond.ratios.1 must be a number"),
        (lambda data: put(data, "ratios", 10**400), "branches.cond.ratios.1 must be a number"),
        (lambda data: put(data, "sigmas", None), "branches.cond.sigmas.1 must be a number"),
        (lambda data: put(data, "sigmas", math.nan), "sigmas.1 must be a finite number"),
        (lambda data: put(data, "sigmas", -0.5), "sigmas.1 must be greater than or equal to 0"),
        (lambda data: cond(data).update(sigmas=[], ratios=[]), "branches.cond.sigmas .*at least 1"),
        (lambda data: cond(data)["spreads"].pop(), "branches.cond.spreads must hold 3 values"),
        (lambda data: cond(data)["cosine_distances"].append(0.0), "cosine_distances must hold 3"),
        (lambda data: data.update(settings=None), "settings must be an object"),
        (lambda data: data.update(model=7), "model must be a string"),
        (
            lambda data: data["settings"].update(steps="many"),
            "settings.steps must be a whole number",
        ),
        (lambda data: data["settings"].update(prompts=[2]), "settings.prompts must be"),
        (lambda data: data["settings"].update(prompts=math.nan), "settings.prompts must be"),
        (lambda data: data["settings"].update(cfg=10**400), "settings.cfg must be a number"),
        (lambda data: data["settings"].update(shift=1e308), "settings.shift must be less than"),
        (lambda data: data["settings"].update(latent=[None]), "settings.latent.0 must be"),
        (lambda data: data["settings"].update(sampler=[1]), "settings.sampler must be a string"),
        (lambda data: data.update(identity="Toy"), "identity must be an object"),
        (lambda data: data.update(identity={"model": "Toy"}), "identity.parameters is missing"),
        (lambda data: data.update(identity={**IDENTITY, "parameters": "7"}), "identity.parameters"),
        (lambda data: data.update(switch_at=math.nan), "switch_at must be a finite number"),
        (lambda data: data.update(switch_at=5.0), "switch_at must lie within the noise levels of"),
        (lambda data: data.update(switch_at=0), "switch_at must lie within the noise levels of"),
        (lambda data: data.update(threshold=-1.0), "threshold must be greater than or equal to 0"),
        (lambda data: data.update(threshold=None), "threshold must be a number"),
        (lambda data: data.update(max_skip="four"), "max_skip must be"),
        (lambda data: data.update(retention=2.0), "retention must be less than or equal to 1"),
    ],
)
def test_a_broken_file_is_named_with_the_field(
    saved: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    edited(saved, change)
    refuse(saved, rf"^calibration .*toy\.json: (branches\.cond\.)?{said}")


def cond(data: dict[str, Any]) -> dict[str, Any]:
    return data["branches"]["cond"]


def put(data: dict[str, Any], name: str, value: Any) -> None:
    cond(data)[name][1] = value


def with_gram(path: Path) -> Path:
    norms, rows = [3.0, 2.0, 1.0], [[], [0.9], [0.7, 0.8]]
    both = calibration().branches
    branches = {b: replace(m, norms=norms, correlations=rows) for b, m in both.items()}
    return calibration(branches=branches, identity=IDENTITY).save(path)


IDENTITY = {"model": "Toy", "parameters": 7, "shapes": "aaaa", "weights": None, "patches": ""}


def test_correlations_and_identity_are_kept(tmp_path: Path) -> None:
    loaded = Calibration.load(with_gram(tmp_path / "toy.json"))
    assert loaded.identity == IDENTITY and loaded.known_as() == Identity(**IDENTITY)
    expected = np.array([[1, 0.9, 0.7], [0.9, 1, 0.8], [0.7, 0.8, 1]])
    assert loaded.grams["cond"].correlations == pytest.approx(expected)


def test_a_file_of_an_older_time_has_no_identity_and_no_gram_curve(saved: Path) -> None:
    edited(saved, lambda data: data.pop("identity"))
    for branch in ("cond", "uncond"):
        for name in ("norms", "correlations"):
            edited(saved, lambda data, b=branch, n=name: data["branches"][b].pop(n))
    edited(saved, lambda data: data.update(format=1))
    loaded = Calibration.load(saved)
    assert loaded == calibration()
    assert loaded.known_as() is None and loaded.grams == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda cond: cond["correlations"][2].__setitem__(0, math.nan), "correlations.2.0 must be"),
        (lambda cond: cond["norms"].__setitem__(0, math.inf), "norms.0 must be a finite number"),
        (lambda cond: cond["norms"].__setitem__(0, 0.0), "norms.0 must be greater than"),
        (lambda cond: cond["norms"].pop(), "norms must hold 3 values, not 2"),
        (lambda cond: cond.update(norms=[]), "norms and correlations belong together"),
        (lambda cond: cond.update(correlations=[]), "norms and correlations belong together"),
        (lambda cond: cond["correlations"].pop(), "correlations must hold 3 values, not 2"),
        (lambda cond: cond["correlations"][2].pop(), "correlations.2 must hold 2 values, not 1"),
        (lambda cond: cond["correlations"][2].__setitem__(0, 1.5), "correlations.2.0 must be less"),
        (lambda cond: cond["correlations"][2].__setitem__(0, -0.9), "correlations contradict each"),
        (lambda cond: cond["correlations"][2].__setitem__(0, "x"), "2.0 must be a number"),
        (lambda cond: cond.update(correlations=[7, 7, 7]), "correlations.0 must be a list"),
        (lambda cond: cond.update(correlations=[[], [0], [0, 0]]), "correlations are all 0"),
    ],
)
def test_broken_correlations_are_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    path = with_gram(tmp_path / "toy.json")
    edited(path, lambda data: change(data["branches"]["cond"]))
    refuse(path, f"toy.json: branches.cond.*{said}")


def measured(sigmas: list[float], ratios: list[float]) -> Calibration:
    zeros = [0.0] * len(sigmas)
    return calibration(branches={"cond": Measurement(sigmas, ratios, zeros, zeros)})


def test_evaluations_at_one_sigma_compose() -> None:
    # Heun: the second evaluation at σ 0.5 and the step from it to 0.25 are one ratio, 0.8·0.5.
    curve = measured([1, 0.5, 0.5, 0.25, 0.25], [1, 0.5, 0.8, 0.5, 0.9]).curves["cond"]
    assert curve.positions == (1, 0.5, 0.25)
    assert curve.ratios([1, 0.5, 0.25]) == pytest.approx([1, 0.5, 0.4])


def test_an_evaluation_at_a_higher_sigma_composes_too() -> None:
    # Down to 0.5, back up to 0.75 (twice as large), down to 0.25 (a quarter): together half.
    curve = measured([1, 0.5, 0.75, 0.25], [1, 0.5, 2, 0.25]).curves["cond"]
    assert curve.positions == (1, 0.5, 0.25)
    assert curve.ratio(0.5, 0.25) == pytest.approx(0.5)


def test_the_trajectory_of_a_run_that_rises_is_what_falls() -> None:
    rising = measured([1, 0.5, 0.75, 0.25], [1, 0.5, 2, 0.25])
    assert rising.trajectory().sigmas == (1, 0.5, 0.25)


def test_one_evaluation_is_a_flat_curve() -> None:
    assert measured([1], [1]).curves["cond"].ratio(1, 0.1) == 1
