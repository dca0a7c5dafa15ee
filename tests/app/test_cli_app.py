"""`magcache app` from the command line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from magcache import cli

CONNECTIONS = Path("/proc/net/tcp")


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["app", *arguments]) == 2
    return capsys.readouterr().err


@pytest.fixture
def restored() -> object:
    """The handler that the command replaces."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("restored")
def test_a_port_in_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = complaint(capsys, "--tiny", "--port", str(port))
    assert f"cannot serve on 127.0.0.1, port {port}: it is in use" in error
    assert "choose another with --port" in error and "Traceback" not in error


def test_a_port_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no port 70000" in complaint(capsys, "--port=70000")
    assert "--resolution is from 32 to 2048, got 5" in complaint(capsys, "--resolution=5")


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("missing", ["gradio", "imageio_ffmpeg", "diffusers"])
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    missing: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    error = complaint(capsys, "--tiny")
    assert f"{missing} is missing, install it with: pip install 'magcache[app]'" in error


def test_it_serves_this_computer_only_and_leaves_nothing(tmp_path: Path) -> None:
    """Its folder for files goes when it is ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "magcache.cli", "app", "--tiny", "--port", str(port)]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as app:
        try:
            assert app.stdout is not None
            assert f"serving on http://127.0.0.1:{port}" in app.stdout.readline()
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=30)
            assert b"FramePack" in page.read()
            assert len(list(tmp_path.glob("magcache-app-*"))) == 1
            if CONNECTIONS.exists():  # Linux
                lines = CONNECTIONS.read_text(encoding="utf-8").splitlines()[1:]
                addresses = [line.split()[1].split(":") for line in lines]
                own = {host for host, at in addresses if int(at, 16) == port}
                assert own == {"0100007F"}
        finally:
            app.send_signal(signal.SIGTERM)
            assert app.wait(timeout=30) == 0
    for _ in range(50):
        if not list(tmp_path.glob("magcache-app-*")):
            break
        time.sleep(0.1)
    assert not list(tmp_path.glob("magcache-app-*"))
