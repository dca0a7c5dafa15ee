"""The store: what is kept, what is replaced, what is found, and what bad files do to it."""

import errno
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from magcache.curves import store as module
from magcache.curves.calibration import CalibrationError
from magcache.curves.identity import Identity
from magcache.curves.magnitude import shifted_sigmas
from magcache.curves.nearness import at_least_as_good, distance
from magcache.curves.store import Store, home
from tests.calibrations import IDENTITY, calibration, measurement, partial

MODEL = Identity(**IDENTITY)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "kept")


def files(store: Store) -> list[str]:
    """All but the lock."""
    return sorted(name for name in os.listdir(store.folder) if name != ".lock")


# Where


def test_the_home_is_what_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MAGCACHE_HOME", str(tmp_path))
    assert home() == tmp_path and Store().folder == tmp_path


def test_a_tilde_in_it_is_the_users_folder(monkeypatch):
    monkeypatch.setenv("MAGCACHE_HOME", "~/somewhere")
    assert home() == Path.home() / "somewhere"


def test_otherwise_the_home_is_the_platforms_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("MAGCACHE_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert home().name == "magcache"
    if sys.platform == "linux":
        assert home() == tmp_path / "magcache"


def test_looking_makes_no_folder(store):
    assert store.names() == [] and store.calibrations() == {} and store.find(MODEL) == []
    assert not store.folder.exists()


def test_a_folder_of_ones_own_needs_no_platformdirs(tmp_path):
    """ComfyUI names its folder, and need not have that package."""
    code = (
        "import sys; sys.modules['platformdirs'] = None\n"
        "from magcache.curves import Store\n"
        f"assert Store({str(tmp_path)!r}).names() == []"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Saving


def test_a_file_is_named_after_model_and_settings(store):
    path = store.save(calibration(steps=28, shift=3))
    assert path.name == "Toy-bbbb-28steps-shift3-euler-cfg3.json"
    assert store.load(path.stem) == calibration(28, 3, name=path.stem)


def test_a_name_holds_nothing_that_file_systems_mind(store):
    odd = {"sampler": "../../my sampler: 2*x?", "cfg": None}
    assert store.save(calibration(settings=odd)).parent == store.folder
    assert files(store) == ["Toy-bbbb-10steps-shift1-.._.._my_sampler_2_x_.json"]


def test_without_an_identity_a_file_can_be_named_too(store):
    assert store.save(calibration(identity=None)).name.startswith("Toy-unknown-")


def test_a_name_can_be_given_and_is_taken_then(store):
    assert store.save(calibration(), "mine").name == "mine.json"
    with pytest.raises(CalibrationError, match=r"calibration mine already exists: .*mine"):
        store.save(calibration(steps=50), "mine.json")
    assert store.load("mine").settings["steps"] == 10


def test_an_equally_good_one_replaces_the_older(store):
    store.save(partial(20, settings={"steps": 50, "host": "old"}))
    store.save(partial(20, settings={"steps": 50, "host": "new"}))
    (name,) = files(store)
    assert store.load(name).settings["host"] == "new"


def test_a_finer_one_replaces_the_older(store):
    store.save(partial(20))
    store.save(partial(50))
    assert [len(c.branches["cond"].sigmas) for c in store.calibrations().values()] == [50]


def test_a_coarser_one_is_put_beside_the_older(store):
    finer, coarser = store.save(partial(50)), store.save(partial(20))
    assert coarser.stem == finer.stem + "-2"
    assert len(store.load(finer.stem).branches["cond"].sigmas) == 50
    assert store.save(partial(20)) == coarser  # and the next one of its kind takes its place


@pytest.mark.parametrize(
    "settings", [{"steps": 28}, {"shift": 2.0}, {"sampler": "heun"}, {"cfg": 5.0}, {"latent": [1]}]
)
def test_other_settings_are_another_file(store, settings):
    store.save(calibration())
    store.save(calibration(settings=settings))
    assert len(files(store)) == 2


def test_other_weights_are_another_file(store):
    """Even if their hashes begin alike."""
    for weights in ("12345678aaaa", "12345678bbbb"):
        store.save(calibration(identity={**IDENTITY, "weights": weights}))
    assert len(files(store)) == 2


def test_a_broken_file_is_not_overwritten(store):
    path = store.save(calibration())
    path.write_text("half of", encoding="utf-8")
    assert store.save(calibration()).stem == path.stem + "-2"
    assert path.read_text(encoding="utf-8") == "half of"


WHOLE = partial(50)


@pytest.mark.parametrize(
    "less",
    [
        partial(49),
        partial(50, low=0.3),
        partial(50, branches={"uncond": WHOLE.branches["cond"]}),
        partial(50, branches={"cond": replace(WHOLE.branches["cond"], norms=[], correlations=[])}),
    ],
)
def test_what_has_less_is_not_as_good(less):
    assert not at_least_as_good(less, WHOLE)


def test_what_was_merged_from_more_prompts_is_better():
    merged = replace(WHOLE, settings={**WHOLE.settings, "prompts": 4})
    assert at_least_as_good(merged, WHOLE) and not at_least_as_good(WHOLE, merged)


def test_what_has_all_and_more_is_as_good():
    branches = {**WHOLE.branches, "uncond": WHOLE.branches["cond"]}
    assert at_least_as_good(partial(50, branches=branches), WHOLE)


# Finding


def found(store: Store, *of: Any, **by: Any) -> list[str]:
    return [one.path.stem for one in store.find(MODEL, *of, **by)]


def test_the_same_weights_come_first(store):
    store.save(calibration(steps=28, identity={**IDENTITY, "weights": "cccc"}), "fine-tune")
    store.save(calibration(steps=10), "same")
    first, second = store.find(MODEL, shifted_sigmas(28))
    assert (first.path.stem, first.same_weights) == ("same", True)
    assert (second.path.stem, second.same_weights) == ("fine-tune", False)
    assert first.distance > second.distance


@pytest.mark.parametrize(
    "identity", [{**IDENTITY, "model": "Wan"}, {**IDENTITY, "shapes": "cccc"}, None]
)
def test_another_architecture_is_not_found(store, identity):
    store.save(calibration(identity=identity))
    assert store.find(MODEL) == []


def test_unreadable_weights_are_not_the_same_but_are_found(store):
    store.save(calibration(identity={**IDENTITY, "weights": None}), "offloaded")
    (one,) = store.find(replace(MODEL, weights=None))
    assert not one.same_weights


def test_the_nearest_noise_levels_come_first(store):
    for steps, shift in ((28, 1), (28, 3), (50, 1)):
        store.save(calibration(steps, shift), f"{steps}-{shift}")
    assert found(store, shifted_sigmas(28, 3)) == ["28-3", "50-1", "28-1"]
    assert found(store, shifted_sigmas(28, 1)) == ["28-1", "50-1", "28-3"]
    assert found(store, shifted_sigmas(50, 1)) == ["50-1", "28-1", "28-3"]


def test_the_distance_is_in_steps_of_the_run():
    whole = [calibration(steps) for steps in (80, 40, 20, 10)]
    far = [distance(one, shifted_sigmas(40)) for one in whole]
    # Every second level is a step away; then of four two are one and one is two steps away, and
    # the last one three.
    assert far == pytest.approx([0, 0, 1 / 2, 1 + 2 / 40])


def test_a_range_that_is_not_covered_counts_in_the_same_steps():
    # Of 40 levels the lower 20 lie 1 to 20 steps below the calibration's lowest.
    assert distance(partial(20, low=0.5), shifted_sigmas(40)[:20]) == 0
    assert distance(partial(20, low=0.5), shifted_sigmas(40)) == pytest.approx(20 * 21 / 2 / 40)


def test_a_level_that_a_sampler_evaluates_twice_counts_once():
    once = shifted_sigmas(8)
    twice = [sigma for sigma in once for _ in range(2)]
    assert distance(calibration(5), twice) == distance(calibration(5), once)


@pytest.mark.parametrize(("steps", "taken"), [(50, True), (14, True), (7, False)])
def test_one_whose_levels_are_more_than_a_step_away_is_not_taken_by_itself(store, steps, taken):
    store.save(calibration(steps))
    found = store.nearest(MODEL, shifted_sigmas(50 if steps == 7 else 28), {})
    assert (found is not None) == taken


def test_cfg_counts_where_noise_levels_are_alike(store):
    """Within half a step of the run's own on average; beyond, they count more."""
    for steps, cfg in ((28, 7.0), (50, 3.0), (7, 3.0)):
        store.save(calibration(steps, settings={"cfg": cfg}), f"{steps}-{cfg:g}")
    wanted = {"steps": 28, "cfg": 3.0}
    assert found(store, settings=wanted) == ["50-3", "28-7", "7-3"]


def test_steps_and_shift_stand_in_for_noise_levels(store):
    for steps, shift in ((28, 1), (28, 3), (50, 1)):
        store.save(calibration(steps, shift), f"{steps}-{shift}")
    assert found(store, settings={"steps": 28, "shift": 3.0})[0] == "28-3"
    assert found(store, settings={"steps": 40})[0] == "50-1"


def test_a_range_that_is_not_covered_is_far(store):
    store.save(partial(50, low=0.5), "upper half, fine")
    store.save(partial(12), "all, coarse")
    assert found(store, shifted_sigmas(25)) == ["all, coarse", "upper half, fine"]
    assert found(store, [1.0, 0.97, 0.94, 0.91]) == ["upper half, fine", "all, coarse"]


@pytest.mark.parametrize(
    ("name", "values"),
    [("cfg", (3.0, 7.0)), ("sampler", ("euler", "heun")), ("latent", ([1, 8], [4, 8]))],
)
def test_nearer_settings_come_first(store, name, values):
    for value in values:
        store.save(calibration(settings={name: value}))
    for value in values:
        settings = {**calibration().settings, name: value}
        assert store.find(MODEL, settings=settings)[0].calibration.settings[name] == value


def test_one_without_a_gram_curve_comes_last(store):
    old = replace(measurement(shifted_sigmas(10)), norms=[], correlations=[])
    store.save(calibration(branches={"cond": old}), "old")
    store.save(calibration(steps=5), "new")
    assert found(store, shifted_sigmas(10)) == ["new", "old"]


def test_of_equals_the_one_from_more_prompts_and_then_the_newest_comes_first(store):
    for place, (name, prompts) in enumerate((("three", 3), ("one", 1), ("newest", 1))):
        path = store.save(calibration(settings={"prompts": prompts}), name)
        os.utime(path, (place, place))
    assert found(store) == ["three", "newest", "one"]


def test_a_report_says_which_one_was_found_and_why(store):
    store.save(calibration(50, 3.0), "mine")
    store.save(calibration(identity={**IDENTITY, "weights": "cccc"}), "other")
    first, second = map(str, store.find(MODEL))
    assert first == "calibration mine: same weights, 50 steps, shift 3, euler, CFG 3; 1 of 2 found"
    assert second.startswith("calibration other: same architecture, other weights, 10 steps")


def test_a_finding_says_what_is_special(store):
    measured = replace(measurement([1.0, 0.9, 0.5, 0.4]), norms=[], correlations=[])
    odd = {"steps": None, "shift": None, "sampler": None, "cfg": None, "prompts": 2}
    store.save(calibration(branches={"cond": measured}, settings=odd, switch_at=0.7), "odd")
    (one,) = store.find(MODEL)
    assert one.reason == "same weights, 4 noise levels, 2 prompts, two experts, no Gram curve"


# Bad files


NEWER = json.dumps({"format": 99})
BROKEN = {"cut.json": '{"format": 2, "mod', "newer.json": NEWER, "foreign.json": "[]"}


def test_files_that_cannot_be_used_are_passed_over_with_one_warning_each(store, caplog):
    store.save(calibration(), "good")
    for name, text in BROKEN.items():
        (store.folder / name).write_text(text, encoding="utf-8")
    (store.folder / "binary.json").write_bytes(bytes(range(256)))
    with caplog.at_level(logging.WARNING, "magcache"):
        assert found(store) == found(store) == ["good"]
        assert found(Store(store.folder)) == ["good"]
    said = sorted(caplog.messages)
    assert len(said) == 4
    for name, message in zip(sorted([*BROKEN, "binary.json"]), said, strict=True):
        assert str(store.folder / name) in message and message.endswith("it was ignored")


def test_a_file_that_changes_is_warned_of_anew(store, caplog):
    path = store.save(calibration(), "bad")
    with caplog.at_level(logging.WARNING, "magcache"):
        for place in (1, 2):
            path.write_text("no", encoding="utf-8")
            os.utime(path, (place, place))
            store.find(MODEL)
    assert len(caplog.messages) == 2


def test_other_files_and_folders_are_no_concern(store, caplog):
    store.save(calibration(), "good")
    (store.folder / ".good.json.12-34.tmp").write_text("half", encoding="utf-8")
    (store.folder / ".hidden.json").write_text("half", encoding="utf-8")
    (store.folder / "notes.txt").write_text("half", encoding="utf-8")
    assert store.names() == found(store) == ["good"]
    assert caplog.messages == []


def test_a_file_that_vanishes_meanwhile_is_no_concern(store, caplog, monkeypatch):
    gone = store.save(calibration(), "gone")
    monkeypatch.setattr(Store, "_files", lambda _: {gone.name: (1, 1, 1)})
    gone.unlink()
    assert store.find(MODEL) == [] and caplog.messages == []


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", "..", ".", "", ".hidden", "C:x", "a\0b", "/etc/passwd", ".json"]
)
def test_a_name_that_leads_elsewhere_is_refused(store, name, tmp_path):
    (tmp_path / "x.json").write_text("mine", encoding="utf-8")
    for action in (store.path, store.load, store.remove, lambda n: store.save(calibration(), n)):
        with pytest.raises(CalibrationError, match="cannot be the name of a calibration"):
            action(name)
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == "mine"


def test_a_missing_one_is_named_with_those_there_are(store):
    store.save(calibration(), "mine")
    with pytest.raises(CalibrationError, match=r"no calibration their in .*; it holds mine"):
        store.load("their")
    with pytest.raises(CalibrationError, match="no calibration their in"):
        store.remove("their")


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_full_disk_leaves_the_older_file_and_says_so(store, failing, monkeypatch):
    path = store.save(calibration())
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(OSError, match=r"no calibration was saved in .*No space left"):
            store.save(calibration())
    assert path.read_bytes() == before and files(store) == [path.name]
    assert store.save(calibration()) == path  # the lock is free again


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OSError, match="no calibration was saved in"):
        Store(tmp_path / "file" / "kept").save(calibration())


def test_another_process_that_never_finishes_is_not_waited_for_for_ever(store, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    with store._locked(), pytest.raises(OSError, match=r"no calibration was saved.*\.lock"):
        Store(store.folder).save(calibration())


# Several at once


WRITER = """
import sys
from magcache.curves import Store
from tests.calibrations import partial
store, levels = Store(sys.argv[1]), int(sys.argv[2])
for _ in range(10):
    store.save(partial(levels))
"""


def test_processes_that_write_the_same_calibration_lose_none(store):
    """Two coarse writers, a fine one, a reader: never a broken file, and the fine one stays."""
    command = [sys.executable, "-c", WRITER, str(store.folder)]
    writers = [subprocess.Popen([*command, levels]) for levels in ("20", "50", "20")]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        for name in store.names():
            store.load(name)
            seen += 1
        time.sleep(0.02)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen > 0
    kept = [len(c.branches["cond"].sigmas) for c in store.calibrations().values()]
    assert sorted(kept) in ([50], [20, 50])
    assert all(name.endswith(".json") for name in files(store))


# Importing and removing


def test_a_file_is_imported_under_its_name(store, tmp_path):
    path = calibration(name="any").save(tmp_path / "their file (1).json")
    kept = store.import_file(path)
    assert kept == store.folder / "their_file_1_.json"
    assert store.load("their_file_1_") == calibration(name="their_file_1_")


def test_importing_twice_keeps_one(store, tmp_path):
    path = calibration().save(tmp_path / "a.json")
    assert store.import_file(path) == store.import_file(path)
    assert files(store) == ["a.json"]


def test_another_file_of_one_name_gets_a_number(store, tmp_path):
    store.save(calibration(), "a")
    path = calibration(steps=50).save(tmp_path / "a.json")
    assert store.import_file(path).name == "a-2.json"
    assert store.load("a").settings["steps"] == 10


def test_an_older_format_is_imported_in_todays(store, tmp_path):
    path = calibration(identity=None).save(tmp_path / "old.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    del data["checksum"], data["identity"], data["branches"]["cond"]["norms"]
    del data["branches"]["cond"]["correlations"]
    path.write_text(json.dumps({**data, "format": 1}), encoding="utf-8")
    kept = store.import_file(path)
    assert json.loads(kept.read_text(encoding="utf-8"))["format"] == 3


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_file_is_not_imported(store, tmp_path, name):
    path = tmp_path / name
    path.write_text(BROKEN[name], encoding="utf-8")
    with pytest.raises(CalibrationError, match=str(path)):
        store.import_file(path)
    assert store.names() == []


def test_a_broken_file_can_be_removed(store):
    store.save(calibration(), "bad").write_text("no", encoding="utf-8")
    store.remove("bad")
    assert files(store) == []
