"""`magcache calibrations`: what it prints, its JSON, its picture, and what bad input gets."""

import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageColor

from magcache import cli
from magcache.curves import Calibration, join
from magcache.curves.magnitude import shifted_sigmas
from magcache.curves.store import Store
from magcache.pictures import draw_calibration
from magcache.pictures.calibration import GAP, LEFT, LINES, RIGHT, SIDE
from magcache.pictures.canvas import shaded
from tests.calibrations import IDENTITY, calibration, measurement


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MAGCACHE_HOME", str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)
    return Store()


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["calibrations", *arguments]) == 0
    return capsys.readouterr().out


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["calibrations", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def test_list_says_where_there_is_nothing(capsys, store):
    assert output(capsys, "list") == f"no calibrations in {store.folder}\n"
    assert json.loads(output(capsys, "list", "--json")) == []


def test_list_gives_a_line_each_the_newest_first(capsys, store):
    os.utime(store.save(calibration(28, 3.0), "first"), (1, 1))
    store.save(calibration(50), "b")
    assert output(capsys, "list").splitlines() == [
        "b      Toy, 50 steps, shift 1, euler, CFG 3",
        "first  Toy, 28 steps, shift 3, euler, CFG 3",
    ]


def test_list_shows_what_cannot_be_used_and_why(capsys, store):
    path = store.save(calibration(), "bad")
    path.write_text('{"format": 9}', encoding="utf-8")
    printed = output(capsys, "list")
    assert printed.startswith("bad  cannot be used: ") and "format 9" in printed
    assert json.loads(output(capsys, "list", "--json"))[0]["name"] == "bad"


def test_list_as_json_has_the_identity(capsys, store):
    store.save(calibration(), "a")
    (row,) = json.loads(output(capsys, "list", "--json"))
    assert (row["name"], row["model"], row["identity"]) == ("a", "Toy", IDENTITY)


def test_another_home_can_be_given(capsys, tmp_path, store):
    Store(tmp_path / "elsewhere").save(calibration(), "there")
    assert output(capsys, "list", "--home", "elsewhere").startswith("there  Toy")
    assert "there" not in output(capsys, "list")


def test_show_prints_settings_range_and_ratios(capsys, store):
    store.save(calibration(10, settings={"host": "ComfyUI 0.4", "sigmas": [1, 0.5]}), "mine")
    assert output(capsys, "show", "mine").splitlines() == [
        "mine: 10 steps, shift 1, euler, CFG 3",
        "model: Toy, 7 parameters, shapes aaaa, weights bbbb",
        "made with: steps 10, shift 1.0, sampler euler, cfg 3.0, host ComfyUI 0.4",
        "cond: 10 noise levels from 1 to 0.1, ratio 0.9048 to 0.9048, spread at most 0.1000, "
        "cosine distance at most 0.0100",
    ]


def test_show_says_what_is_special(capsys, store):
    odd = {**IDENTITY, "weights": None, "patches": "2 LoRAs"}
    store.save(calibration(switch_at=0.55, identity=odd), "odd")
    printed = output(capsys, "show", "odd")
    assert "weights not read, 2 LoRAs" in printed
    assert "the second expert takes over at noise level 0.55" in printed
    store.save(calibration(identity=None), "unknown")
    assert "it is used only if you name it" in output(capsys, "show", "unknown")


def test_show_reads_a_file_too(capsys, tmp_path):
    path = calibration(name="theirs").save(tmp_path / "theirs.json")
    assert output(capsys, "show", str(path)).startswith("theirs: 10 steps")


def test_show_as_json_has_every_figure(capsys, store):
    store.save(calibration(), "mine")
    shown = json.loads(output(capsys, "show", "mine", "--json"))
    assert shown["settings"] == calibration().settings
    assert shown["branches"]["cond"] == {
        "noise_levels": 10,
        "sigmas": [1.0, pytest.approx(0.1)],
        "ratios": [pytest.approx(0.904837), pytest.approx(0.904837)],
        "spread_at_most": 0.1,
        "cosine_distance_at_most": pytest.approx(0.01),
        "gram_curve": True,
    }


def test_show_of_one_evaluation(capsys, store):
    store.save(calibration(branches={"cond": measurement([1.0])}), "one")
    assert "1 noise levels from 1 to 1, ratio 1.0000 to 1.0000" in output(capsys, "show", "one")


def test_show_draws_a_picture(capsys, store, tmp_path):
    store.save(calibration(), "mine")
    printed = output(capsys, "show", "mine", "--picture", "pictures/mine.png")
    assert printed.endswith(f"wrote {Path('pictures/mine.png')}\n")
    assert (tmp_path / "pictures" / "mine.png").read_bytes().startswith(b"\x89PNG")


def drawn(known):
    """Pixels of a calibration's picture, (H, W, 3)."""
    return np.asarray(draw_calibration("a title", known.curves, known.grams)).astype(int)


def columns_of(pixels, colour):
    """Of each column of the upper part, whether a colour is in it."""
    wanted = np.abs(pixels[:380] - ImageColor.getrgb(colour)).max(-1) <= 2
    return wanted[90:].any(0)  # below the names of the branches


def test_the_picture_has_the_curves_and_a_square_a_branch():
    sigmas = shifted_sigmas(10)
    branches = {"cond": measurement(sigmas), "uncond": measurement(sigmas, turn=2.0)}
    pixels = drawn(calibration(branches=branches))
    lowest = min(measured.matrix().min() for measured in branches.values())
    middle = 0.95 - 0.1 * np.arange(9)  # of the cells: nearest to one noise level each
    for left, measured in ((LEFT, branches["cond"]), (LEFT + SIDE + GAP, branches["uncond"])):
        at = [round((1 - level) / 0.9 * (SIDE - 1)) for level in middle + 0.03]
        top = next(row for row in range(400, 500) if (pixels[row, left] == (252, 255, 200)).all())
        cells = pixels[np.ix_(top + np.array(at), left + np.array(at))]
        expected = np.asarray(shaded((measured.matrix()[:9, :9] - lowest) / (1 - lowest)))
        assert np.abs(cells - expected.astype(int)).max() <= 2
    assert columns_of(pixels, LINES[1])[LEFT + 5 : RIGHT - 5].all()  # the upper of the two lines


def test_the_picture_of_two_experts_has_a_line_each_in_one_colour():
    high, low = measurement([1.0, 0.8]), measurement([0.4, 0.2])
    branches, switch_at = join({"cond": high}, {"cond": low})
    known = calibration(branches=branches, switch_at=switch_at)
    own = columns_of(drawn(known), LINES[0])
    high_end, low_start = (LEFT + round((RIGHT - LEFT) * at) for at in (0.25, 0.75))
    assert own[LEFT + 2 : high_end].all() and own[low_start : RIGHT - 2].all()
    assert not own[high_end + 5 : low_start - 5].any()


def test_without_pillow_it_says_what_to_install(capsys, store, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("magcache.pictures")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    store.save(calibration(), "mine")
    said = complaint(capsys, "show", "mine", "--picture", "a.png")
    assert "pip install 'magcache[plot]'" in said


def test_merge_stores_the_average(capsys, store, tmp_path):
    store.save(calibration(), "a")
    path = calibration(steps=20).save(tmp_path / "b.json")
    printed = output(capsys, "merge", "a", str(path), "-o", "both")
    assert printed.startswith(f"stored as {store.folder / 'both.json'}\nboth: 10 steps")
    assert store.load("both").prompts == 2


def test_merge_as_json(capsys, store):
    store.save(calibration(), "a")
    made = json.loads(output(capsys, "merge", "a", "a", "-o", "both", "--json"))
    assert made["name"] == "both" and Path(made["path"]) == store.folder / "both.json"


def test_merge_overwrites_nothing(capsys, store):
    store.save(calibration(), "a")
    assert "calibration a already exists" in complaint(capsys, "merge", "a", "a", "-o", "a")


def test_merge_says_what_does_not_mix(capsys, store):
    store.save(calibration(), "a")
    store.save(calibration(model="Wan"), "b")
    said = complaint(capsys, "merge", "a", "b", "-o", "c")
    assert "a and b cannot be merged: they are of different models, Toy and Wan" in said
    assert store.names() == ["b", "a"]


def test_import_says_what_it_has_stored(capsys, store, tmp_path):
    path = calibration().save(tmp_path / "theirs.json")
    printed = output(capsys, "import", str(path))
    assert printed.startswith(f"stored as {store.folder / 'theirs.json'}\ntheirs: 10 steps")
    assert Calibration.load(store.path("theirs")).name == "theirs"


def test_remove_removes(capsys, store):
    path = store.save(calibration(), "mine")
    assert output(capsys, "remove", "mine") == f"removed {path}\n"
    assert not path.exists()
    store.save(calibration(), "mine")
    assert json.loads(output(capsys, "remove", "mine", "--json")) == {"removed": str(path)}


def test_plan_takes_a_stored_calibration_by_its_name(capsys, store):
    store.save(calibration(steps=12), "mine")
    assert cli.main(["plan", "--calibration", "mine"]) == 0
    assert capsys.readouterr().out.startswith("mine, 12 steps")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "none"], "no calibration none in"),
        (["show", "none.json"], "there is no calibration file none.json"),
        (["show", "../none", "--home", "."], "cannot be the name of a calibration"),
        (["remove", "none"], "no calibration none in"),
        (["remove", "../outside"], "'../outside' cannot be the name of a calibration"),
        (["merge", "a.json", "-o", "../b"], "'../b' cannot be the name of a calibration"),
        (["import", "none.json"], "there is no calibration file none.json"),
        (["import", "broken.json"], "broken.json is not a calibration file"),
        (["import", "."], "is not a calibration file"),
    ],
)
def test_bad_input_gets_one_line_that_says_what_is_wrong(capsys, tmp_path, arguments, said):
    calibration().save(tmp_path / "a.json")
    (tmp_path.parent / "outside.json").write_text("mine", encoding="utf-8")
    (tmp_path / "broken.json").write_text('{"format": 2, "bra', encoding="utf-8")
    message = complaint(capsys, *arguments)
    assert message.startswith("magcache: ") and said in message
    assert (tmp_path.parent / "outside.json").exists()


def test_a_full_disk_gets_one_line_too(capsys, store, monkeypatch):
    store.save(calibration(), "a")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    assert "No space left on device" in complaint(capsys, "merge", "a", "-o", "b")
    assert store.names() == ["a"]
