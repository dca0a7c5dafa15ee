"""Bad files: whatever lies in the folder, a file is used as it was written, or named and left."""

import json
import math
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magcache import cli
from magcache.calibrate import Calibrator
from magcache.cli import calibrate as calibrate_command
from magcache.curves import (
    Calibration,
    CalibrationError,
    Identity,
    Learned,
    Notebook,
    Store,
    Trajectory,
    shifted_sigmas,
)
from magcache.curves import files as files_module
from magcache.curves import store as store_module
from magcache.curves.names import plain, stem_of
from magcache.decide import Course, Rule, Target, decider_for
from tests.calibrations import IDENTITY, calibration

MODEL = Identity(**IDENTITY)
LEVELS = shifted_sigmas(14)
RUN = {"steps": 14, "cfg": 3.0, "sampler": "euler", "latent": (1, 16, 8, 8)}
often = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def measured() -> Calibration:
    """As a run in half precision is measured: residuals that turn and shrink smoothly."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn((2, 1, 32, 8), generator=generator)
    calibrator = Calibrator()
    for sigma in LEVELS:
        turned = math.cos(sigma) * first + math.sin(sigma) * second + 0.5
        for place, branch in enumerate(("cond", "uncond")):
            calibrator.add(place, (branch,), sigma, (((1 + sigma) * turned).half(),))
    made_with = {**RUN, "shift": 1.0, "latent": [1, 16, 8, 8], "prompts": 2}
    return calibration(branches=calibrator.finish(), settings=made_with)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured().save(tmp_path_factory.mktemp("real") / "real.json")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "kept")


def use(known: Calibration) -> str:
    """All that a sampling does with a calibration: its schedules."""
    course = Course.of_steps(Trajectory(LEVELS))
    curves, grams = known.curves, known.grams
    deciders = [
        decider_for(asked, course, curves, grams, 3.0)
        for asked in (Target(speedup=2), Target(error=0.05), Rule(0.1, 3, 0.2))
    ]
    for decider in deciders:
        weights, error = decider.predict(["cond"], 0.4, [0.6, 0.5])
        assert all(map(math.isfinite, weights)) and (error is None or math.isfinite(error))
    return " ".join(str(decider.schedule()) for decider in deciders)


def place_of(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something is in a file; of long lists only the second and the last."""
    if at:
        yield at
    if isinstance(node, dict):
        for key, value in node.items():
            yield from place_of(value, (*at, key))
    elif isinstance(node, list) and node:
        for key in {1, len(node) - 1} & set(range(len(node))):
            yield from place_of(node[key], (*at, key))


PLACES = list(place_of(json.loads(json.dumps(measured().__dict__, default=vars))))
ODD = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 1, 2, 0.5, 1e-320, 1e308, -1e308, math.nan, math.inf, 10**400]
    ),
    st.floats(),
    st.integers(),
    st.text(max_size=4),
    st.lists(st.one_of(st.floats(), st.none(), st.text(max_size=2)), max_size=14),
    st.sampled_from([1e-300, 1e300, 0.0, 1.0, -1.0, "1", True]).map(lambda value: [value] * 14),
    st.sampled_from([0.0, 1.0, -1.0]).map(lambda value: [[value] * row for row in range(14)]),
    st.sampled_from([{}, {"a": 1}, [[]], [[None]]]),
)


def changed(path: Path, at: tuple[Any, ...], value: Any, *, sealed: bool) -> str:
    held = json.loads(path.read_text(encoding="utf-8"))
    node = held
    for key in at[:-1]:
        node = node[key]
    node[at[-1]] = value
    if not sealed:
        del held["checksum"]
    return json.dumps(held)


@often
@given(at=st.sampled_from(PLACES), value=ODD)
def test_a_changed_field_is_refused_by_its_name_or_can_be_used(
    real: Path, tmp_path: Path, at: tuple[Any, ...], value: Any
) -> None:
    path = tmp_path / "changed.json"
    path.write_text(changed(real, at, value, sealed=False), encoding="utf-8")
    try:
        known = Calibration.load(path)
    except CalibrationError as error:
        said = str(error)
        assert said.startswith(f"calibration {path}: {at[0]}")
        assert "\n" not in said and "pydantic" not in said
    else:
        use(known)
        assert all(map(str, Store(tmp_path).find(MODEL, LEVELS, RUN)))


@often
@given(at=st.sampled_from(PLACES), value=ODD)
def test_no_changed_field_changes_a_schedule(
    real: Path, tmp_path: Path, at: tuple[Any, ...], value: Any
) -> None:
    path = tmp_path / "changed.json"
    path.write_text(changed(real, at, value, sealed=True), encoding="utf-8")
    try:
        known = Calibration.load(path)
    except CalibrationError:
        return
    assert known == Calibration.load(real)


@often
@given(st.data())
def test_a_flipped_bit_is_seen_or_means_nothing(
    real: Path, tmp_path: Path, data: st.DataObject
) -> None:
    held = bytearray(real.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(held) - 1))
    held[bit // 8] ^= 1 << bit % 8
    path = tmp_path / "flipped.json"
    path.write_bytes(held)
    try:
        known = Calibration.load(path)
    except CalibrationError:
        return
    assert known == Calibration.load(real)  # the last of seventeen digits may not matter


def test_a_flipped_digit_is_told_with_what_to_do(real: Path, tmp_path: Path) -> None:
    path = tmp_path / "flipped.json"
    path.write_text(changed(real, ("threshold",), 0.13, sealed=True), encoding="utf-8")
    with pytest.raises(CalibrationError, match=r'checksum does not match.* delete "checksum"'):
        Calibration.load(path)
    held = json.loads(path.read_text(encoding="utf-8"))
    del held["checksum"]
    path.write_text(json.dumps(held), encoding="utf-8")
    assert Calibration.load(path).threshold == 0.13


def test_spaces_order_and_line_ends_are_no_damage(real: Path, tmp_path: Path) -> None:
    held = json.loads(real.read_text(encoding="utf-8"))
    text = json.dumps(held, indent=4, sort_keys=True).replace("\n", "\r\n")
    path = tmp_path / "spaced.json"
    path.write_text("\ufeff" + text, encoding="utf-8", newline="")
    assert Calibration.load(path) == Calibration.load(real)


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_older_formats_have_no_checksum_and_are_read(
    version: int, real: Path, tmp_path: Path
) -> None:
    held = json.loads(real.read_text(encoding="utf-8"))
    del held["checksum"]
    if version == 1:
        for branch in held["branches"].values():
            del branch["norms"], branch["correlations"]
    path = tmp_path / "older.json"
    path.write_text(json.dumps({**held, "format": version}), encoding="utf-8")
    assert Calibration.load(path).curves == Calibration.load(real).curves


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    bad = measured()
    bad.branches["cond"].norms[3] = math.nan
    with pytest.raises(CalibrationError, match=r"was not saved: branches\.cond\.norms\.3 must be"):
        bad.save(tmp_path / "bad.json")
    assert os.listdir(tmp_path) == []


def test_a_file_too_large_to_be_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "LARGEST", 1 << 20)
    large = calibration(settings={"sampler": "x" * (1 << 20)})
    with pytest.raises(OSError, match="would be larger than 1 MiB"):
        large.save(tmp_path / "large.json")
    assert os.listdir(tmp_path) == []


# What else may lie in the folder


def fifo(path: Path) -> None:
    os.mkfifo(path)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 31)


SPECIAL = {
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a folder": Path.mkdir,
    "a pipe": fifo,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "nothing in it": Path.touch,
    "2 GiB of zeros": sparse,
    "a deep nest": lambda path: path.write_text("[" * 200_000),
    "a deep nest of objects": lambda path: path.write_text('{"a":' * 200_000),
    "no UTF-8": lambda path: path.write_bytes(b'{"format": 3, "model": "\xff"}'),
    "half a character": lambda path: path.write_text(r'{"format": 3, "model": "\ud800"}'),
    "a number of 5000 digits": lambda path: path.write_text('{"format": 1' + "0" * 5000 + "}"),
}
on_posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


@on_posix
@pytest.mark.parametrize("kind", SPECIAL)
def test_it_is_passed_over_with_one_warning(
    kind: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(measured(), "good")
    SPECIAL[kind](store.folder / "bad.json")
    for _ in range(2):
        found = store.nearest(MODEL, LEVELS, RUN)
        assert found and found.path.stem == "good"
    (said,) = caplog.messages
    assert str(store.folder / "bad.json") in said and said.endswith("it was ignored")


@on_posix
@pytest.mark.parametrize("kind", SPECIAL)
def test_chosen_or_imported_it_is_an_error(kind: str, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    SPECIAL[kind](path)
    for action in (Calibration.load, store.import_file, Store(tmp_path).load):
        with pytest.raises(CalibrationError, match="bad"):
            action("bad" if action == Store(tmp_path).load else path)
    assert store.names() == []


@on_posix
def test_a_name_that_is_no_text_is_told_once_and_not_listed(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(measured(), "good")
    (store.folder / os.fsdecode(b"\xff.json")).write_text("{}")
    assert store.names() == store.names() == ["good"]
    (said,) = caplog.messages
    assert "rename it" in said and said.isascii()


@on_posix
@pytest.mark.parametrize("kind", ["a link to itself", "a pipe", "nothing in it"])
def test_a_folder_that_is_none_is_told_once(
    kind: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    SPECIAL[kind](store.folder)
    assert store.names() == [] and store.find(MODEL) == []
    assert len(caplog.messages) == 1 and str(store.folder) in caplog.messages[0]


@on_posix
@pytest.mark.parametrize("kind", SPECIAL)
def test_a_notebook_that_is_none_teaches_nothing(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = Notebook(tmp_path, MODEL)
    SPECIAL[kind](book.path)
    assert book.read() == book.read() == Learned()
    assert len(caplog.messages) == (kind != "a link to nothing")
    book.add([(0.5, 2.0)])  # replaces what is a file, warns of what is none


def test_a_damaged_notebook_is_told_by_field_and_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = Notebook(tmp_path, MODEL)
    book.add([(0.5, 2.0)])
    held = json.loads(book.path.read_text())
    for change, said in (
        ({"runs": 2}, "checksum does not match"),
        ({"weights": [0.0] * 31}, "weights"),
        ({"logs": [math.nan] * 32}, "logs.0 must be a finite number"),
    ):
        book.path.write_text(json.dumps({**held, **change}))
        assert book.read() == Learned()
        assert str(book.path) in caplog.messages[-1] and said in caplog.messages[-1]
    book.add([(0.5, 2.0)])
    assert book.read().runs == 1


# Writing


def test_file_and_folder_are_synced_before_and_after_the_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def moved(*paths: Any) -> None:
        done.append("move")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", moved)
    measured().save(tmp_path / "a.json")
    assert done == (["file", "move"] if os.name == "nt" else ["file", "move", "folder"])


@on_posix
def test_permissions_are_kept_and_new_ones_are_usual(tmp_path: Path) -> None:
    path, usual = tmp_path / "a.json", tmp_path / "usual"
    usual.touch()
    measured().save(path)
    assert path.stat().st_mode == usual.stat().st_mode
    path.chmod(0o640)
    measured().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@on_posix
def test_a_link_goes_on_leading_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "real.json", tmp_path / "link.json"
    target.touch()
    link.symlink_to(target)
    measured().save(link)
    assert link.is_symlink() and Calibration.load(target) == Calibration.load(link) == measured()


@on_posix
def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    fifo(tmp_path / "a.json")
    with pytest.raises(OSError, match="not a regular file"):
        measured().save(tmp_path / "a.json")
    assert stat.S_ISFIFO((tmp_path / "a.json").stat().st_mode)


# Many files


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    load = Calibration.load.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Calibration], path: Path) -> Calibration:
        found.append(Path(path).stem)
        return load(cls, path)

    monkeypatch.setattr(Calibration, "load", classmethod(counted))
    return found


def test_a_file_is_read_once_as_long_as_it_is_unchanged(store: Store, reads: list[str]) -> None:
    for name in "abc":
        store.save(calibration(), name)
    (store.folder / "bad.json").write_text("{")
    for _ in range(3):
        assert len(Store(store.folder).find(MODEL)) == 3
    assert sorted(reads) == ["a", "b", "bad", "c"]
    calibration(steps=20).save(store.path("b"))
    store.remove("c")
    reads.clear()
    assert {f.calibration.settings["steps"] for f in store.find(MODEL)} == {10, 20}
    assert reads == ["b"]


def test_a_change_within_one_tick_of_the_clock_is_seen(store: Store) -> None:
    path = store.save(calibration(threshold=0.1), "a")
    os.utime(path, (1, 1))
    assert store.find(MODEL)[0].calibration.threshold == 0.1
    calibration(threshold=0.2, name="a").save(path)
    os.utime(path, (1, 1))
    assert store.find(MODEL)[0].calibration.threshold == 0.2


def test_memory_is_bounded(store: Store, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [store.save(calibration(), name).stat().st_size for name in "abcd"]
    monkeypatch.setattr(store_module, "_ROOM", 2 * sizes[0])
    for _ in range(3):
        assert len(store.find(MODEL)) == 4
    assert len(reads) == 4 + 2 + 2  # two are kept


def test_threads_may_look_and_save_at_once(store: Store) -> None:
    failed: list[BaseException] = []

    def work(place: int) -> None:
        try:
            for turn in range(5):
                store.save(calibration(steps=10 + place), f"{place}-{turn}")
                assert store.find(MODEL)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and len(store.names()) == 20


# Names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "empty"), (".json", "empty"), (5, "empty"), (None, "empty"), (Path("p"), "empty"),
        ("a.", "ends with a dot"), ("a ", "a space"), ("..", "begins with a dot"),
        ("a\nb", "control"), ("\x7f", "control"), ("a/b", "holds one of"), ("C:x", "holds one of"),
        ("a.json.json", "twice"), ("CON", "device"), ("nul.json", "device"), ("Com1.x", "device"),
        ("a\ud800", "Unicode"), ("a" * 251, "250 bytes"), ("ä" * 126, "250 bytes"),
    ],
)  # fmt: skip
def test_a_bad_name_is_told_with_the_reason(store: Store, name: Any, said: str) -> None:
    for action in (store.path, store.load, store.remove):
        with pytest.raises(CalibrationError, match=f"cannot be the name of a cal.*: it .*{said}"):
            action(name)
    if name is not None:  # which names it after the model
        with pytest.raises(CalibrationError, match=said):
            store.save(calibration(), name)
        with pytest.raises(CalibrationError, match=said):
            store.prepare(name)


@often
@given(name=st.text(max_size=30) | st.sampled_from(["日本 語", "-rf", "~", "$HOME", "A\u0301"]))
def test_what_can_be_saved_can_be_loaded_and_removed(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    try:
        path = store.save(calibration(), name)
    except CalibrationError:
        return
    assert path.parent == tmp_path and store.names() == [path.stem]
    assert store.load(name) == store.load(path.stem) == calibration(name=path.stem)
    store.remove(name)
    assert store.names() == []


@often
@given(st.text(max_size=300) | st.sampled_from(["CON", "nul.", "a.json", "a.json.", "ä" * 300]))
def test_every_text_makes_a_name(text: str) -> None:
    assert stem_of(plain(text)) == plain(text)


def test_names_that_differ_in_case_only_do_not_meet(store: Store, tmp_path: Path) -> None:
    store.save(calibration(), "Flux")
    for name in ("flux", "FLUX.json"):
        with pytest.raises(CalibrationError, match="calibration Flux already exists, the same"):
            store.save(calibration(), name)
    kept = store.import_file(calibration(steps=5).save(tmp_path / "fluX.json"))
    assert kept.name == "fluX-2.json"


@pytest.mark.parametrize("model", ["M" * 300, "ä" * 200, "..", "", "a.", "nul"])
def test_every_model_can_name_a_file(store: Store, model: str) -> None:
    path = store.save(calibration(model=model))
    assert store.load(path.stem).model == model


@pytest.mark.parametrize("name", ["CON", "taken", "TAKEN", "a/b"])
def test_the_command_tells_a_bad_name_before_it_measures(
    store: Store,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store.save(calibration(), "taken")
    monkeypatch.setattr(calibrate_command, "sweep", lambda *_: pytest.fail("it has measured"))
    home = str(store.folder)
    assert cli.main(["calibrate", "emoji", "--steps", "4", "--name", name, "--home", home]) == 2
    assert name.casefold() in capsys.readouterr().err.casefold()


def test_a_folder_that_cannot_be_written_is_told_before_a_measurement(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="no calibration was saved in"):
        Store(tmp_path / "file" / "kept").prepare()
