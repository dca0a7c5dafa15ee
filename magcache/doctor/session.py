"""Runs `inside` in ComfyUI's Python, and reads its findings."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .findings import Findings
from .installation import Installation

_INSIDE = Path(__file__).with_name("inside.py")
_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = ("custom_nodes", "models", "input", "output", "temp", "user")
_ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",  # prints and logs go to the same file, in order
    # ComfyUI sets these when it starts.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # Packs that install or download something while loading shall wait for the next real start.
    "PIP_NO_INDEX": "1",
    "UV_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
}
_LOG_LINES = 30
_POLL = 0.1  # seconds

OnStep = Callable[[str, int, int], None]
"""Called with a step's text, its number and the number of steps; 0 and 0 while unknown."""


def examine(
    installation: Installation,
    findings: Findings,
    on_step: OnStep,
    families: Sequence[str] = (),
    timeout: float = 600.0,
    cpu: bool = False,
) -> None:
    """Starts a ComfyUI, tests MagCache in it, and fills `findings`.

    Does not change the installation: the folders for models, output, user and so on are temporary,
    and only the custom nodes are loaded from their place.

    Args:
        installation: What to check.
        findings: Receives the findings, even if the check ends early; `unfinished` then says why.
        on_step: Called at each step.
        families: Names of the families to test; all if empty.
        timeout: Seconds after which the check is stopped.
        cpu: Whether to compute on the CPU only.
    """
    findings.memory["disk"] = _disk(installation.user_folder)
    with tempfile.TemporaryDirectory(prefix="magcache-doctor-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        asked = _asked(installation, folder, families, cpu)
        isolated = ["-s"] if installation.embedded else []
        command = [str(installation.python), "-B", *isolated, str(_INSIDE), str(asked)]
        log, scratch = folder / "log", folder / "tmp"
        scratch.mkdir()
        # A killed process may leave temporary files behind; they are removed with this folder.
        temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=installation.folder,
                env={**os.environ, **_ENVIRONMENT, **temporary},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _listen(process, folder / "events", findings, on_step, time.monotonic() + timeout)
        finally:
            _end(process)
        if findings.unfinished and not findings.refused:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            findings.log = [line for line in lines if line.strip()][-_LOG_LINES:]


def _disk(folder: Path) -> dict[str, Any]:
    """Disk space for calibrations. The folder may not exist before the first one is stored."""
    place = next(each for each in (folder, *folder.parents) if each.exists())
    usage = shutil.disk_usage(place)
    writable = os.access(place, os.W_OK)
    return {"device": str(folder), "free": usage.free, "whole": usage.total, "writable": writable}


def _asked(installation: Installation, folder: Path, families: Sequence[str], cpu: bool) -> Path:
    """Writes the child's instructions, and creates the folders that it works in."""
    base = folder / "base"
    for name in _FOLDERS:
        (base / name).mkdir(parents=True)
    custom_nodes = installation.base / "custom_nodes"
    places = {"custom_nodes": str(custom_nodes)} if custom_nodes.is_dir() else {}
    paths = folder / "paths.yaml"
    paths.write_text(json.dumps({"magcache_doctor": places}), encoding="utf-8")  # JSON is YAML
    arguments = [
        "--base-directory", str(base), "--extra-model-paths-config", str(paths),
        "--database-url", "sqlite:///:memory:", "--disable-api-nodes", "--disable-auto-launch",
        *(["--cpu"] if cpu else []),
    ]  # fmt: skip
    asked = {
        "comfyui": str(installation.folder),
        "package": str(_PACKAGE),
        "events": str(folder / "events"),
        "arguments": arguments,
        "families": list(families),
    }
    path = folder / "asked.json"
    path.write_text(json.dumps(asked), encoding="utf-8")
    return path


def _listen(
    process: subprocess.Popen[bytes], path: Path, findings: Findings, on_step: OnStep, end: float
) -> None:
    """Reads events until the child is done, has ended or is out of time."""
    step = "starting its Python"
    start = time.monotonic()
    for event in _events(process, path, end):
        kind = event["event"]
        if kind == "done":
            return
        if kind in ("error", "refused"):
            findings.refused = kind == "refused"
            findings.unfinished = event["text"] + ("" if findings.refused else f", while {step}")
            return
        if kind == "back":
            step = event["text"]
        elif kind == "step":
            step = event["text"]
            on_step(step, event.get("number", 0), event.get("total", 0))
        else:
            findings.add(event)
    if process.poll() is None:
        seconds = time.monotonic() - start
        findings.unfinished = f"not done after {seconds:.0f} s, while {step}"
    else:
        findings.unfinished = f"ComfyUI ended with status {process.returncode}, while {step}"


def _events(process: subprocess.Popen[bytes], path: Path, end: float) -> Iterator[dict[str, Any]]:
    """Yields the events of a file as they are written, until the process ends or time is up."""
    path.touch()
    with path.open("rb") as file:
        rest = b""
        while True:
            ended = process.poll() is not None  # checked before reading, so that no line is lost
            *lines, rest = (rest + file.read()).split(b"\n")
            yield from map(json.loads, lines)
            if ended or time.monotonic() > end:
                return
            time.sleep(_POLL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the child and the processes that it started."""
    if sys.platform == "win32":
        process.kill()
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
