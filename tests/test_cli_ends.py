"""Commands that are told to end: one line, the exit status shells expect, and nothing left."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from magcache import cli
from magcache.cli import calibrate
from magcache.cli.signals import Ended, raised_as_ended
from magcache.curves import Store
from tests.calibrations import calibration

SIGNALS = [
    (signal.SIGINT, 130, "magcache: ended by Ctrl+C"),
    (signal.SIGTERM, 143, "magcache: ended by SIGTERM"),
    *([(signal.SIGHUP, 129, "magcache: ended by SIGHUP")] if hasattr(signal, "SIGHUP") else []),
]


@pytest.mark.parametrize(("number", "status", "said"), SIGNALS)
def test_a_signal_ends_a_command_with_one_line(
    number: signal.Signals,
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        monkeypatch.setattr(calibrate, "check", lambda *_, **__: signal.raise_signal(number))
        assert cli.main(["calibrate", "emoji"]) == status
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(said) and captured.err.count("\n") == 1


def test_a_second_signal_does_not_disturb_clearing_up() -> None:
    cleared = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleared.append(True)

    with raised_as_ended(), pytest.raises(Ended):
        work()
    assert cleared


def test_what_the_parent_has_set_to_be_ignored_stays_ignored() -> None:
    """As nohup does with SIGHUP."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with raised_as_ended():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_prompts_that_were_finished_are_kept(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(task: Any) -> Iterator[Any]:
        if task.prompt == "owl":
            signal.raise_signal(signal.SIGTERM)
        yield calibration()

    monkeypatch.setattr(calibrate, "_measure", measure)
    prompts = [f"--prompt={word}" for word in ("fox", "cat", "owl", "dog")]
    assert cli.main(["calibrate", "emoji", *prompts, "--name=mine"]) == 143
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (f"magcache: ended by SIGTERM; 2 of 4 prompts are kept in {home / 'mine.json'}")
    assert Store(home).load("mine").prompts == 2


def test_a_prompt_that_fails_loses_none_of_the_others(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(task: Any) -> Iterator[Any]:
        if task.prompt == "owl":
            raise RuntimeError("out of memory")
        yield calibration()

    monkeypatch.setattr(calibrate, "_measure", measure)
    prompts = [f"--prompt={word}" for word in ("fox", "owl", "dog")]
    assert cli.main(["calibrate", "emoji", *prompts, "--name=mine"]) == 0
    assert "'owl' failed and is left out: out of memory" in capsys.readouterr().err
    assert Store(home).load("mine").prompts == 2


HANGS = """
import os, subprocess, sys, time
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({pids!r}, "w").write(f"{{os.getpid()}} {{other.pid}}")
os.makedirs(os.path.join(__import__("tempfile").gettempdir(), "left behind"))
time.sleep(600)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(("number", "status", "said"), SIGNALS)
def test_the_doctor_leaves_neither_process_nor_folder(
    number: signal.Signals, status: int, said: str, tmp_path: Path
) -> None:
    from tests.test_doctor import comfyui

    pids, scratch = tmp_path / "pids", tmp_path / "scratch"
    scratch.mkdir()
    folder = comfyui(tmp_path / "ComfyUI", HANGS.format(pids=str(pids)))
    options = ["doctor", "--comfyui", str(folder), "--python", sys.executable]
    with subprocess.Popen(
        [sys.executable, "-m", "magcache.cli", *options],
        env={**os.environ, "TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each, *_ in SIGNALS],
    ) as doctor:
        assert isinstance(doctor.stderr, io.TextIOWrapper)
        until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        until(lambda: list(scratch.glob("magcache-doctor-*/tmp/left behind")))
        doctor.send_signal(number)
        lines = doctor.stderr.read().splitlines()
        assert doctor.wait(timeout=60) == status
    assert lines[-1].startswith(said) and not any("Traceback" in line for line in lines)
    assert not list(scratch.glob("magcache-doctor-*"))
    until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def until(done: Any) -> None:
    for _ in range(600):
        if done():
            return
        time.sleep(0.1)
    raise AssertionError("a minute was not enough")


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    told = stat.read_text(encoding="utf-8") if stat.exists() else ") R"
    return told.rpartition(")")[2].split()[0] != "Z"
