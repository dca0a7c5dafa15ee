"""A ComfyUI server as a user runs it: its own process, its own folders, prompts over HTTP."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
PACK = "ComfyUI-MagCache-1.0"  # as archives name it: no name that Python could import
UP_WITHIN, DONE_WITHIN = 300, 300  # seconds, on a shared machine
Graph = dict[str, dict[str, Any]]


class Server:
    """A running server.

    Attributes:
        base: Its base directory.
        address: Its address.
    """

    def __init__(self, base: Path, port: int, log: Path) -> None:
        self.base = base
        self.address = f"http://127.0.0.1:{port}"
        self._log = log

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def calibrations(self) -> list[Path]:
        """Calibration files, the oldest first."""
        return sorted((self.base / "user" / "magcache").glob("*.json"))

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, graph: Graph) -> dict[str, Any]:
        """Queues a graph; what the server answers, also where it refuses."""
        # Without a page, ComfyUI 0.8.0 leaves out what cached nodes show.
        data = json.dumps({"prompt": graph, "client_id": "page"}).encode()
        request = urllib.request.Request(self.address + "/prompt", data)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def run(self, graph: Graph) -> dict[str, Any]:
        """Queues a graph and waits for it; its history."""
        answer = self.post(graph)
        assert not answer.get("node_errors") and "prompt_id" in answer, answer
        end = time.monotonic() + DONE_WITHIN
        while time.monotonic() < end:
            history = self.get(f"/history/{answer['prompt_id']}")
            if history:
                return history[answer["prompt_id"]]
            time.sleep(0.2)
        pytest.fail(f"not done within {DONE_WITHIN} s:\n{self.log[-3000:]}")

    def succeed(self, graph: Graph) -> dict[str, Any]:
        """Queues a graph and waits; its outputs."""
        history = self.run(graph)
        assert history["status"]["status_str"] == "success", self.log[-3000:]
        return history["outputs"]

    def fail(self, graph: Graph) -> dict[str, Any]:
        """Queues a graph whose node raises, and waits; the message of the error."""
        messages = dict(self.run(graph)["status"]["messages"])
        return messages["execution_error"]


@contextmanager
def running(base: Path, checkout: str, *arguments: str) -> Iterator[Server]:
    """A server on a free port of this machine, ended on the way out."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = base / "server.log"
    command = [
        sys.executable, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port),
        "--base-directory", str(base), "--disable-api-nodes",
        "--database-url", "sqlite:///:memory:", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    server = Server(base, port, log)
    try:
        _wait_until_up(server, process)
        yield server
    finally:
        process.kill()
        process.wait(30)


def unpacked(folder: Path) -> Path:
    """The pack as an archive of it is unpacked: what git holds or would take, and no .git."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if names.returncode:
        pytest.skip("not a git checkout")
    for name in names.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    return folder


def folders(base: Path) -> Path:
    """A base directory with the pack in it, unpacked from an archive."""
    (base / "models" / "diffusion_models").mkdir(parents=True)
    unpacked(base / "custom_nodes" / PACK)
    return base


def _wait_until_up(server: Server, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + UP_WITHIN
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.fail(f"the server has ended:\n{server.log[-3000:]}")
        try:
            server.get("/queue")
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"not up within {UP_WITHIN} s:\n{server.log[-3000:]}")
