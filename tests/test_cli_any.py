"""Whatever is typed: a command ends with 0, 1 or 2, and a mistake gets one line."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from magcache import cli
from magcache.cli import app, calibrate, demo, measure
from magcache.curves import store
from magcache.doctor import session
from magcache.doctor.findings import Findings
from tests.calibrations import calibration

ODD = [
    "", " ", "0", "-0", "1", "2", "3", "-1", "0.5", "1.5", "12", "1000", "1001", "1e3", "1e11",
    "1e308", "-1e308", "1e-308", "9" * 400, "nan", "inf", "-inf", "NaN", "Infinity", "1_0", "0x10",
    "٣", "½", "\0", "a\0b", "\udc80", "\n", "é", "😀", "~", "~nobody", ".", "..", "../x", "CON",
    "x" * 300, "[", "%s", "{}", "--", "-", "cpu", "meta", "cuda:99", "good", "good.json", "flux",
    "/dev/null", "/dev/zero", "/proc/x", "wan2.1_t2v_14B", "emoji", "lightx2v", "diffusers",
    "float32",
]  # fmt: skip
COMMANDS: dict[str, list[str]] = {
    "plan": [
        "--preset", "--calibration", "--steps", "--shift", "--threshold", "--max-skip",
        "--retention", "--start-step", "--end-step", "--speedup", "--error", "--cfg", "--json",
    ],
    "export": ["--to", "--preset", "--calibration", "--steps", "--shift", "--threshold"],
    "presets": ["--json"],
    "calibrations list": ["--home", "--json"],
    "calibrations show": ["--home", "--json"],
    "calibrations merge": ["--home", "--json", "-o"],
    "calibrations remove": ["--home", "--json"],
    "calibrations import": ["--home", "--json"],
    "calibrate": [
        "--prompt", "--steps", "--cfg", "--shift", "--seed", "--image", "--height", "--width",
        "--frames", "--dtype", "--device", "--offload", "--name", "--home",
    ],
    "measure": [
        "--prompt", "--steps", "--speeds", "--cfg", "--shift", "--seed", "--image", "--height",
        "--width", "--frames", "--dtype", "--device", "--offload", "--output",
    ],
    "demo": ["--output", "--steps", "--json"],
    "app": ["--listen", "--port", "--tiny", "--resolution"],
    "doctor": ["--comfyui", "--python", "--base-directory", "--cpu", "--family", "--timeout"],
    "nope": ["--version"],
}  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(ODD),
    st.floats(allow_nan=True, allow_infinity=True).map(str),
    st.integers(-3, 60).map(str),
    st.text(max_size=12).filter(lambda text: not set(text) & {"/", "\\"}),  # stays in its folder
)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with some of its options, values of all sorts, and words that none asked for."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    line = command.split()
    if draw(st.booleans()) and command in ("plan", "export"):
        line.append(draw(st.sampled_from(["--preset=flux", "--calibration=good"])))
    for option in draw(st.lists(st.sampled_from(COMMANDS[command]), max_size=4, unique=True)):
        form = draw(st.integers(0, 9))
        if form == 0 or option in ("--json", "--tiny", "--cpu", "--offload"):
            line.append(option)
        else:
            line.append(f"{option}={draw(VALUES)}")
    return line + draw(st.lists(VALUES, max_size=1))


@pytest.fixture(scope="module", autouse=True)
def stubbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each command to the point where it loads a model, starts a server or runs a process."""
    look_up = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("any"))
        patch.setattr(calibrate, "_prepared", Prepared())
        patch.setattr(calibrate, "_measure", lambda _: iter([calibration(9)]))
        patch.setattr(measure, "_generate", lambda *_: None)
        patch.setattr(demo, "run", lambda *_: Nothing([], [], {}, {}))
        patch.setattr(app, "_serve", lambda *_: None)
        patch.setattr(session, "examine", examined)
        for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "TRANSFORMERS_VERBOSITY"):
            patch.setenv(name, "")  # commands set them for their process
        patch.setattr(  # without asking a name server
            socket,
            "getaddrinfo",
            lambda *a, flags=0, **k: look_up(*a, flags=flags | socket.AI_NUMERICHOST, **k),
        )
        yield


class Prepared:
    """Loads no model."""

    def cache_clear(self) -> None: ...


class Nothing(demo.Demo):
    """A demonstration that has drawn nothing."""

    def write(self, _folder: Path) -> list[Path]:
        return []


def examined(_found: Any, findings: Findings, *_: Any) -> None:
    findings.unfinished = "not tried"


def no_number(text: str) -> None:
    raise AssertionError(f"{text} in JSON")


@settings(max_examples=200)
@given(command_lines())
@example(["plan", "--calibration=good", "--speedup=2", "--steps=1000", "--cfg=100"])
def test_whatever_is_typed(line: list[str]) -> None:
    calibration(9).save(store.home() / "good.json")
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = cli.main(line)
        except SystemExit as asked_for_help:
            status = asked_for_help.code
    assert status in (0, 1, 2)
    *told, last = err.getvalue().splitlines() or [""]
    assert "unexpectedly" not in last and "Traceback" not in err.getvalue()
    assert not any(each.startswith("magcache: ") for each in told)
    if status == 0 and "--json" in line:
        json.loads(out.getvalue(), parse_constant=no_number)
    elif status == 2 and "doctor" not in line:
        assert last.startswith("magcache: ") and out.getvalue() == ""
