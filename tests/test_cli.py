"""The command line: what it prints, its JSON, and what bad input gets."""

import json
import os
import subprocess
import sys

import pytest

from magcache import cli
from magcache.cli import calibrate, demo
from magcache.cli.values import check_folder, check_new_file
from magcache.curves import Calibration, Measurement, presets
from tests.calibrations import calibration


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == 0
    return capsys.readouterr().out


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_plan_prints_the_published_schedule_at_the_lists_own_steps(capsys):
    printed = output(capsys, "plan", "--preset", "wan2.1_i2v_720p_14B")
    assert "########......#......#.....#....#..#..#." in printed
    assert "14 computed (#), 26 skipped (.): 2.86x" in printed


def test_plan_at_other_steps_composes_the_ratios(capsys):
    figures = json.loads(
        output(capsys, "plan", "--preset", "wan2.1_t2v_14B", "--steps=30", "--json")
    )
    assert figures["steps"] == 30 == len(figures["schedule"]) == len(figures["sigmas"])
    assert figures["computed"] + figures["skipped"] == 30
    assert figures["schedule"].startswith("######.")  # int(30 * 0.2) are retained
    assert figures["speedup_at_most"] == pytest.approx(30 / figures["computed"], abs=1e-3)


def test_plan_takes_every_setting_of_the_rule(capsys):
    options = ["--threshold=9", "--max-skip=2", "--retention=0", "--end-step=5", "--shift=3"]
    figures = json.loads(output(capsys, "plan", "--preset=flux", "--steps=9", "--json", *options))
    # FLUX's fixed refresh is at 11/28 of the trajectory: step 4 of 9.
    assert figures["schedule"] == "#..##.###"


def test_plan_of_a_calibration_file(capsys, tmp_path):
    measured = Measurement([1.0, 0.5, 0.25], [1.0, 0.9, 0.9], [0.0] * 3, [0.0] * 3)
    path = Calibration("Toy", {"cond": measured}, threshold=0.15).save(tmp_path / "toy.json")
    printed = output(capsys, "plan", "--calibration", str(path), "--retention=0")
    assert "\n#.#\n" in printed  # |1 - 0.9| = 0.1 stays within 0.15; + |1 - 0.81| does not


def test_plan_for_a_speedup(capsys, tmp_path):
    path = calibration(50).save(tmp_path / "toy.json")
    options = ["--calibration", str(path), "--speedup=2", "--steps=20", "--cfg=3"]
    figures = json.loads(output(capsys, "plan", *options, "--json"))
    assert figures["schedule"].count("#") == 10 and figures["speedup_at_most"] == 2
    assert (figures["speedup"], figures["cfg"]) == (2, 3)
    assert "20 steps: speed-up 2, CFG 3\n" in output(capsys, "plan", *options)


def test_plan_for_an_error(capsys, tmp_path):
    path = calibration(50).save(tmp_path / "toy.json")
    strict, loose = (
        json.loads(output(capsys, "plan", "--calibration", str(path), f"--error={e}", "--json"))
        for e in (0.0001, 0.5)
    )
    assert strict["computed"] > loose["computed"]


def test_plan_for_a_speedup_is_refused_where_it_cannot_be(capsys, tmp_path):
    path = str(calibration(50).save(tmp_path / "toy.json"))
    said = complaint(capsys, "plan", "--preset=flux", "--speedup=2")
    assert "flux has no Gram curve to plan from" in said
    said = complaint(capsys, "plan", "--calibration", path, "--speedup=2", "--retention=0.1")
    assert "--speedup and --error take the place of retention" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "--preset", "flx"], "did you mean flux"),
        (["plan", "--preset", ""], "--preset: '' names nothing"),
        (["plan", "--preset=flux", "--steps=1e11"], "--steps: give a whole number from 1 to 1,000"),
        (["plan", "--preset=flux", "--shift=1e-308"], "--shift: give a number from 0.01 to 100"),
        (["plan", "--preset=flux", "--threshold=nan"], "--threshold: give a number from 0 to 100"),
        (["plan", "--preset=flux", "--cfg=3"], "--cfg is for plans: give --speedup or --error"),
        (["plan"], "one of the arguments --preset --calibration is required"),
        (["calibrate", "emoji", "--dtype=float16", "--width=8"], "takes no --width, --dtype"),
        (["calibrate", "emoji", "--dtype=nope"], "--dtype: invalid choice: 'nope'"),
        (["calibrate", "emoji", "--device=nope"], "the device nope cannot be used here"),
        (["calibrate", "emoji", "--device=meta"], "the device meta cannot be used here"),
        (["calibrate", "emoji", "--cfg=inf"], "--cfg: give a number from 0 to 100, not 'inf'"),
        (["calibrate", "emoji", "--name=../x"], "'../x' cannot be the name of a calibration"),
        (["calibrate", ".", "--cfg=1"], ". is not a saved pipeline: it has no model_index.json"),
        (["calibrate", "x", "--image=missing.png"], "there is no file missing.png"),
        (["plan", "--preset", "omnigen2_edit"], "has no max_skip, retention: set them"),
        (["plan", "--calibration", "missing.json"], "there is no calibration file missing.json"),
        (["demo", "--steps", "0"], "--steps: give a whole number from 1 to 1,000, not '0'"),
    ],
)
def test_bad_input_gets_one_line_that_says_what_to_do(capsys, arguments, said):
    message = complaint(capsys, *arguments)
    assert said in message
    assert message.startswith("magcache: ") and message.count("\n") == 1


def test_a_wrong_folder_or_name_is_told_before_the_work(capsys, tmp_path, home, monkeypatch):
    for module, function in ((demo, "run"), (calibrate, "sweep")):
        monkeypatch.setattr(module, function, lambda *_: pytest.fail("it has begun to work"))
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "below"):
        assert f"cannot write to the folder {place}: a file is in its place" in complaint(
            capsys, "demo", f"--output={place}"
        )
        assert f"cannot write to the folder {place}: a file is in its place" in complaint(
            capsys, "calibrate", "emoji", f"--home={place}"
        )
    calibration(9).save(home / "mine.json")
    assert "calibration mine already exists" in complaint(
        capsys, "calibrate", "emoji", "--name=mine"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "home"]


def test_a_folder_that_is_not_there_yet_is_fine_and_not_made_by_looking(tmp_path):
    check_folder(tmp_path / "some" / "where")
    check_new_file(tmp_path / "some" / "where" / "a.json")
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_only_where_an_ordinary_one_can_be(capsys, tmp_path):
    export = ["export", "--to=diffusers", "--preset=flux", "--output"]
    assert f"{tmp_path} is a folder" in complaint(capsys, *export, str(tmp_path))
    assert "is not an ordinary file" in complaint(capsys, *export, os.devnull)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_the_place_of_a_file_is_refused(capsys, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for arguments in (
        ["calibrate", "x", f"--image={pipe}"],
        ["calibrate", str(pipe)],
        ["export", "--to=diffusers", "--preset=flux", f"--output={pipe}"],
    ):
        complaint(capsys, *arguments)


def test_a_plan_of_too_many_steps_says_how_many_there_may_be(capsys, tmp_path):
    path = calibration(1001).save(tmp_path / "toy.json")
    said = complaint(capsys, "plan", "--calibration", str(path), "--speedup=2")
    assert "has 1,001 steps, too many for a plan: give --steps, up to 1,000" in said


def test_what_nobody_thought_of_gets_one_line_too(capsys, monkeypatch):
    monkeypatch.setattr(presets, "names", lambda: {}["a key"])
    assert "it failed unexpectedly, KeyError: 'a key'" in complaint(capsys, "presets")


def test_a_reader_that_has_enough_is_no_error():
    command = f"{sys.executable} -m magcache.cli presets --json | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[\n", "")


def test_presets_lists_every_preset(capsys):
    listed = json.loads(output(capsys, "presets", "--json"))
    assert [preset["name"] for preset in listed] == presets.names()
    assert all(name in output(capsys, "presets") for name in presets.names())


def test_planning_needs_no_host_and_no_extra():
    """A core installation has neither diffusers nor rich nor matplotlib."""
    blocked = ("diffusers", "transformers", "rich", "matplotlib", "PIL", "skimage")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from magcache import cli\n"
        "sys.exit(cli.main(['plan', '--preset', 'flux']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_missing_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert "pip install 'magcache[demo]'" in complaint(capsys, "demo")
