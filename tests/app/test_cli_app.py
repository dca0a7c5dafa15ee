"""`magcache app` from the command line."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from magcache import cli
from magcache.app.address import is_known, is_local, own_names
from magcache.cli import app

CONNECTIONS = Path("/proc/net/tcp")


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["app", *arguments]) == 2
    return capsys.readouterr().err


def test_a_port_in_use_is_told_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_serve", lambda *_: pytest.fail("it loads"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = complaint(capsys, "--tiny", "--port", str(port))
    assert f"cannot serve on 127.0.0.1, port {port}: it is in use" in error
    assert "choose another with --port" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--port=70000", "--port: give a whole number from 1 to 65,535, not '70000'"),
        ("--resolution=5", "--resolution: give a whole number from 32 to 2,048, not '5'"),
        ("--listen=", "--listen: '' names nothing"),
        ("--listen=nope.invalid", "there is no address 'nope.invalid'"),
        ("--listen=a..b", "there is no address 'a..b'"),
        ("--listen=203.0.113.7", "this computer has no such address"),
    ],
)
def test_an_address_that_there_is_not(
    option: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_serve", lambda *_: pytest.fail("it loads"))
    assert said in complaint(capsys, option)


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("localhost", True), ("127.1.2.3", True), ("0.0.0.0", False)],
)
def test_who_reaches_an_address(address: str, local: bool) -> None:
    assert is_local(address) == local


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost:7860", True),
        ("LOCALHOST", True),
        ("127.0.0.1:7860", True),
        ("192.168.1.5", True),
        ("[::1]:7860", True),
        ("mine.lan:7860", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:80", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_which_hosts_are_answered(host: str, known: bool) -> None:
    assert is_known(host, own_names("localhost") | {"mine.lan"}) == known


@pytest.mark.parametrize("missing", ["gradio", "imageio_ffmpeg", "diffusers"])
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    missing: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    error = complaint(capsys, "--tiny")
    assert f"{missing} is missing, install it with: pip install 'magcache[app]'" in error


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts the command with the tiny model, and ends what a test has left running."""
    started = []

    def serve(*options: str) -> Served:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "magcache.cli", "app", "--tiny", f"--port={port}"]
        process = subprocess.Popen(
            [*command, *options],
            env={**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in (1, 2, 15)],
        )
        started.append(process)
        assert process.stdout is not None
        assert f":{port} (Ctrl+C ends it)" in process.stdout.readline()
        return Served(process, port)

    yield serve
    for process in started:
        process.kill()
        process.communicate()


@dataclass
class Served:
    """An app that is served."""

    process: subprocess.Popen[str]
    port: int

    def status(self, path: str = "/", host: str = "", data: bytes | None = None) -> int:
        """The status of an answer."""
        headers = {"Host": host} if host else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def upload(self, picture: bytes) -> str:
        """Path of an uploaded picture."""
        text = '--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        body = text.encode() + picture + b"\r\n--b--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        place = f"http://127.0.0.1:{self.port}/gradio_api/upload"
        with urllib.request.urlopen(urllib.request.Request(place, body, kind)) as answer:
            return json.load(answer)[0]

    def start(self, image: str) -> None:
        """Presses Generate, with a long video."""
        place = f"http://127.0.0.1:{self.port}"
        with urllib.request.urlopen(f"{place}/config", timeout=30) as answer:
            config = json.load(answer)
        known = {part["id"]: part["props"] for part in config["components"]}
        button = next(d for d in config["dependencies"] if len(d["inputs"]) > 8 and d["queue"])
        values = [known[number].get("value") for number in button["inputs"]]
        values[0] = {"path": image, "meta": {"_type": "gradio.FileData"}}
        values[[known[n].get("label") for n in button["inputs"]].index("Steps")] = 100
        asked = {"data": values, "fn_index": button["id"], "session_hash": "one"}
        body, kind = json.dumps(asked).encode(), {"Content-Type": "application/json"}
        join = urllib.request.Request(f"{place}/gradio_api/queue/join", body, kind)
        urllib.request.urlopen(join, timeout=30).close()


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (1, 129)], ids=str
)
def test_it_ends_with_one_line_and_leaves_nothing(
    number: int, status: int, served: Callable[..., Served], tmp_path: Path
) -> None:
    """Neither its folder, nor what was uploaded, nor the video it was at."""
    app = served()
    assert app.status() == 200
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(picture, "PNG")
    image = app.upload(picture.getvalue())
    assert tmp_path in Path(image).parents and Path(image).is_file()
    app.start(image)
    for _ in range(600):
        (own,) = tmp_path.glob("magcache-app-*")
        if [each for each in own.iterdir() if each.name != "gradio"]:  # the run's own folder
            break
        time.sleep(0.1)
    app.process.send_signal(number)
    _, errors = app.process.communicate(timeout=60)
    assert app.process.returncode == status
    assert errors.splitlines()[-1].startswith("magcache: ended by ") and "Traceback" not in errors
    assert not list(tmp_path.glob("magcache-app-*"))


def test_it_serves_this_computer_only(served: Callable[..., Served]) -> None:
    app = served()
    assert app.status(host="localhost") == app.status(host="127.0.0.1") == 200
    for path in ("/", "/config", "/gradio_api/upload"):
        assert app.status(path, host="evil.example") == 400
    if CONNECTIONS.exists():  # Linux
        lines = CONNECTIONS.read_text(encoding="utf-8").splitlines()[1:]
        addresses = [line.split()[1].split(":") for line in lines]
        assert {host for host, at in addresses if int(at, 16) == app.port} == {"0100007F"}


def test_visitors_from_elsewhere_need_the_password(served: Callable[..., Served]) -> None:
    app = served("--listen")
    assert app.process.stdout is not None
    told = app.process.stdout.readline()
    assert "visitors sign in as magcache, password " in told
    for path in ("/config", "/gradio_api/upload", "/gradio_api/queue/join"):
        data = None if path == "/config" else b"{}"
        assert app.status(path, data=data) == 401
    password = told.split()[-1]
    wrong = f"username=magcache&password={password[::-1]}".encode()
    assert app.status("/login", data=wrong) == 400
    assert app.status("/login", data=f"username=magcache&password={password}".encode()) == 200
    assert app.status(host="evil.example") == 400
