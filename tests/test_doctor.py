"""`magcache doctor` on what is not ComfyUI, does not start or hangs, and what it says of findings.

The installations here are stand-ins with this Python; tests/comfyui has the real ones.
"""

import asyncio
import json
import logging
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from magcache import cli
from magcache.doctor import installation, render
from magcache.doctor.advice import problems, status
from magcache.doctor.findings import (
    FAILS,
    NOTE,
    PROBLEM,
    UNCACHED,
    UNCHECKED,
    UNKNOWN,
    WORKS,
    Family,
    Findings,
)
from magcache.doctor.inside import Channel, _watch_loading

NODES = """
import time
NODE_CLASS_MAPPINGS = {}
async def load_custom_node(path, ignore=set(), module_parent="custom_nodes"):
    time.sleep(60)
"""
EXTENSION = """
class WrappersMP:
    OUTER_SAMPLE = PREDICT_NOISE = APPLY_MODEL = "any"
"""
LOADS_A_NODE = """
import asyncio, nodes
def start_comfyui():
    asyncio.run(nodes.load_custom_node("/custom_nodes/Sleepy"))
"""


def comfyui(folder: Path, main: str = "", extension: str = EXTENSION) -> Path:
    """What looks like an installation, whose main.py does something else."""
    files = {
        "main.py": main, "nodes.py": NODES, "folder_paths.py": "", "comfy/sd.py": "",
        "comfy/patcher_extension.py": extension, "comfyui_version.py": "__version__ = '0.3.30'",
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def program(path: Path) -> Path:
    """Something that can be run."""
    path.parent.mkdir(parents=True)
    path.touch(mode=0o755)
    return path


def doctor(folder: Path, *arguments: str) -> int:
    """The command's exit status."""
    return cli.main(["doctor", "--comfyui", str(folder), "--python", sys.executable, *arguments])


def found(**changes: Any) -> Findings:
    """Findings of an installation without problems."""
    fine: dict[str, Any] = {
        "versions": {"Python": "3.13.5", "torch": "2.9.1", "ComfyUI": "0.33.0"},
        "pack": {"name": "ComfyUI-MagCache", "version": "0.1.0"},
        "custom_nodes": [
            {"name": "ComfyUI-MagCache", "path": "", "ours": True, "loaded": True, "reason": ""}
        ],
        "memory": {
            "ram": {"device": "cpu", "free": 9 << 30, "whole": 16 << 30},
            "disk": {"device": "/c/user", "free": 9 << 30, "whole": 16 << 30, "writable": True},
        },
        "families": [
            Family("flux", "Flux", WORKS, "", "published", 8, 4, 6e-8),
            Family("cosmos1", "GeneralDIT", UNCACHED, "its blocks have names", "", 8, known=True),
        ],
    }
    return Findings("/c", "/c/venv/bin/python", "found in /c/venv", "0.1.0", **{**fine, **changes})


def custom_node(name: str, reason: str = "", ours: bool = False) -> dict[str, Any]:
    """One that is loaded, or that cannot be for a reason."""
    return {"name": name, "path": "", "ours": ours, "loaded": not reason, "reason": reason}


def double(name: str, **versions: str) -> dict[str, Any]:
    """A node id of MagCache that the pack Other registers too."""
    return {"id": name, "packs": ["Other"], "in_force": "Other", "versions": versions}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda path: path / "nowhere",
            "is not a folder: give the one that holds ComfyUI's main.py",
        ),
        (
            lambda path: path,
            "is not ComfyUI, as it has no main.py, nodes.py, folder_paths.py, comfy",
        ),
    ],
    ids=["no folder", "another folder"],
)
def test_a_path_that_is_not_comfyui(
    make: Any, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(make(tmp_path)) == 2
    assert says in capsys.readouterr().err


def test_what_is_given_as_its_python_has_to_be_a_program(tmp_path: Path) -> None:
    comfyui(tmp_path)
    with pytest.raises(installation.CannotCheck, match="is not a program"):
        installation.find(tmp_path, tmp_path / "main.py")


def test_without_a_python_of_its_own_this_one_runs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A system's Python or a conda environment is in no folder that could be looked at."""
    comfyui(tmp_path, "import einops_is_not_here")
    at = installation.find(tmp_path)
    assert at.python == Path(sys.executable)
    assert cli.main(["doctor", "--comfyui", str(tmp_path)]) == 2
    output = capsys.readouterr().out
    assert f"{sys.executable} (it runs this command, and there is no venv" in output
    assert "  -> name the Python that you start ComfyUI with: --python PATH" in output


def test_this_python_goes_first_where_comfyuis_page_is_installed_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A venv may be left over from another time."""
    program(comfyui(tmp_path) / "venv/bin/python")
    page = tmp_path / "site-packages" / "comfyui_frontend_package"
    page.mkdir(parents=True)
    (page / "__init__.py").touch()
    monkeypatch.syspath_prepend(page.parent)
    at = installation.find(tmp_path)
    assert (at.python, at.python_from) == (Path(sys.executable), "it runs this command")


@pytest.mark.parametrize(
    ("place", "isolated"),
    [
        ("portable/ComfyUI/venv/bin/python", False),
        ("portable/ComfyUI/.venv/Scripts/python.exe", False),
        ("portable/.venv/bin/python", False),
        ("base/.venv/bin/python", False),
        ("portable/python_embeded/python.exe", True),
    ],
)
def test_its_own_python_is_found(place: str, isolated: bool, tmp_path: Path) -> None:
    folder, base = comfyui(tmp_path / "portable" / "ComfyUI"), tmp_path / "base"
    base.mkdir()
    python = program(tmp_path / place)
    for path in (folder, folder.parent):
        at = installation.find(path, base=base)
        assert (at.folder, at.python, at.embedded) == (folder, python, isolated)
        assert python.is_relative_to(at.python_from.removeprefix("found in "))


def test_the_python_given_goes_first(tmp_path: Path) -> None:
    program(comfyui(tmp_path) / "venv/bin/python")
    other = program(tmp_path / "other/python")
    at = installation.find(tmp_path, other)
    assert (at.python, at.python_from) == (other, "from --python")


@pytest.mark.parametrize(
    ("main", "says", "advice"),
    [
        (
            "import einops_is_not_here",
            "ModuleNotFoundError: No module named 'einops_is_not_here'",
            "-m pip install -r",
        ),
        ("import os; os._exit(3)", "ComfyUI ended with status 3", "main.py"),
        ("raise SystemExit(1)", "ComfyUI or a custom node called sys.exit(1)", "main.py"),
        ("raise AssertionError('no CUDA here')", "AssertionError: no CUDA here", "--cpu"),
        ("exec('1 +')", "SyntaxError: invalid syntax", "main.py"),
    ],
    ids=["missing package", "ends", "exits", "no GPU", "broken"],
)
def test_one_that_does_not_start(
    main: str, says: str, advice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(comfyui(tmp_path, f"print('about to start')\n{main}")) == 2
    output = capsys.readouterr().out
    what, _, rest = output.partition("NOT CHECKED: ")[2].partition("\n  -> ")
    assert says in what and "while starting ComfyUI" in what
    assert advice in rest.splitlines()[0]
    assert "ComfyUI's last output:" in rest and "about to start" in rest


def test_one_that_hangs_is_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pid = tmp_path / "pid"
    main = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    start = time.monotonic()
    assert doctor(comfyui(tmp_path, main), "--timeout", "2") == 2
    assert time.monotonic() - start < 20
    assert "NOT CHECKED: not done after 2 s, while starting ComfyUI" in capsys.readouterr().out
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize(
    ("main", "says"),
    [
        ("raise RuntimeError('a broken database')", "RuntimeError: a broken database, while start"),
        ("import os; os._exit(3)", "ComfyUI ended with status 3, while starting ComfyUI"),
    ],
)
def test_what_fails_after_a_custom_node_was_loaded_is_not_its_fault(
    main: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = comfyui(tmp_path, f"{LOADS_A_NODE}    {main}\n")
    nodes = folder / "nodes.py"
    nodes.write_text(NODES.replace("time.sleep(60)", "return True"), encoding="utf-8")
    assert doctor(folder) == 2
    output = capsys.readouterr().out
    assert says in output and "Sleepy" not in output


def test_a_custom_node_that_ends_comfyui_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = comfyui(tmp_path, LOADS_A_NODE)
    nodes = folder / "nodes.py"
    nodes.write_text(NODES.replace("time.sleep(60)", "raise SystemExit(1)"), encoding="utf-8")
    assert doctor(folder) == 2
    output = capsys.readouterr().out
    assert "called sys.exit(1), while loading the custom node Sleepy" in output
    assert "  -> try without Sleepy: rename its folder in custom_nodes to end in .dis" in output


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Cannot import /custom_nodes/Sleepy module for custom nodes: no av", "no av"),
        ("Cannot import /custom_nodes/Other module for custom nodes: no av", ""),
        ("a thread of another pack warns", ""),
    ],
)
def test_a_warning_about_something_else_is_no_reason(said: str, reason: str) -> None:
    """A pack's threads go on when the next one is loaded, and warn of what they like."""

    async def load_custom_node(path: str) -> bool:
        logging.getLogger().warning(said)
        logging.getLogger("any").warning("and this comes last")
        return False

    told: list[str] = []
    channel = SimpleNamespace(
        step=told.append, send=lambda event, text: told.append(f"{event} {text}")
    )
    nodes = SimpleNamespace(load_custom_node=load_custom_node)
    packs = _watch_loading(nodes, cast(Channel, channel))
    handler = logging.getLogger().handlers[-1]
    try:
        asyncio.run(nodes.load_custom_node("/custom_nodes/Sleepy"))
    finally:
        logging.getLogger().removeHandler(handler)
    assert packs == [
        {"name": "Sleepy", "path": "/custom_nodes/Sleepy", "ours": False, "loaded": False,
         "reason": reason},
    ]  # fmt: skip
    assert told == ["loading the custom node Sleepy", "back starting ComfyUI"]


def test_a_custom_node_that_hangs_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(comfyui(tmp_path, LOADS_A_NODE), "--timeout", "9") == 2
    captured = capsys.readouterr()
    assert "not done after 9 s, while loading the custom node Sleepy" in captured.out
    assert "allow more time with --timeout, or try without Sleepy: rename" in captured.out
    assert captured.err.splitlines() == ["starting ComfyUI", "loading the custom node Sleepy"]


def test_one_that_is_too_old_says_which_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(comfyui(tmp_path, LOADS_A_NODE, "class WrappersMP: pass"), "--json") == 2
    told = json.loads(capsys.readouterr().out)
    assert told["unfinished"] == (
        "MagCache needs ComfyUI 0.3.52 or newer, this one is 0.3.30: update ComfyUI"
    )
    assert told["status"] == 2 and told["versions"]["ComfyUI"] == "0.3.30"
    assert told["problems"][0]["kind"] == "not checked" and not told["log"]


def test_a_time_limit_of_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for nothing in ("0", "-1", "nan", "inf"):
        assert doctor(comfyui(tmp_path), f"--timeout={nothing}") == 2
        assert "--timeout: give a number above 0 and up to 86,400" in capsys.readouterr().err


def test_nothing_to_say_of_an_installation_that_is_fine() -> None:
    assert problems(found()) == []
    assert status([]) == 0


@pytest.mark.parametrize(
    ("changes", "says", "code"),
    [
        (
            {"families": [Family("a", "A", FAILS, "is off"), Family("b", "B", FAILS, "is off")]},
            [(PROBLEM, "a, b", "is off")],
            1,
        ),
        ({"families": [Family("a", "A", UNKNOWN, "no")]}, [(UNCHECKED, "a", "no")], 2),
        (
            {"families": [Family("a", "A", UNCACHED, "no head")]},
            [(PROBLEM, "a", "nothing is skipped", "no head")],
            1,
        ),
        (
            {"double_ids": [double("CompileModel"), double("MagCache")]},
            [
                (PROBLEM, "CompileModel, MagCache: registered by ComfyUI-MagCache (MagCache 0.1.0)"
                 " and by Other", "rename the folder of one of them in custom_nodes"),
            ],
            1,
        ),
        (
            {"double_ids": [double("MagCache", Other="0.0.9")]},
            [(PROBLEM, " and by Other (MagCache 0.0.9)", "the older one, Other in custom_nodes")],
            1,
        ),
        (
            {"double_ids": [double("MagCache", Other="0.10.0")]},
            [(PROBLEM, " and by Other (MagCache 0.10.0)", "the older one, ComfyUI-MagCache in")],
            1,
        ),
        (
            {"replaced": [{"class": "Flux", "function": "forward", "pack": "Other"}]},
            [(NOTE, "Other", "Flux.forward")],
            0,
        ),
        (
            {"pack": {"name": "Mag", "version": "0.0.9"}},
            [(NOTE, "custom_nodes/Mag", "MagCache 0.0.9", "0.1.0", "0.0.9", "the custom node")],
            0,
        ),
        (
            {"pack": {"name": "Mag", "version": "0.10.0"}},
            [(NOTE, "MagCache 0.10.0", "0.1.0", "0.10.0", "the command, the older of the two")],
            0,
        ),
        (
            {
                "replaced": [{"class": "Flux", "function": "forward", "pack": "Other"}],
                "families": [
                    Family("a", "A", FAILS, "is off", suspects=("Other",)),
                    Family("b", "B", FAILS, "is off"),
                ],
            },
            [
                (PROBLEM, "a: is off", "try again without Other, whose code runs in these models"),
                (PROBLEM, "b: is off", "do not use it on these models"),
                (NOTE, "Other"),
            ],
            1,
        ),
        ({"pack": {"name": "", "version": "0.1.0"}}, [(NOTE, "MagCache", "own copy")], 0),
        (
            {"custom_nodes": [custom_node("Other", "no av")]},
            [(NOTE, "Other", "no av")],
            0,
        ),
        (
            {"custom_nodes": [custom_node("MagCache", "no", ours=True)]},
            [(PROBLEM, "MagCache", "no", "reinstall it")],
            1,
        ),
        (
            {"custom_nodes": [custom_node("magcache-SDXL", "no")]},
            [(NOTE, "magcache-SDXL", "no", "MagCache is not affected")],
            0,
        ),
        (
            {
                "memory": {
                    "ram": {"device": "cpu", "free": 1 << 30, "whole": 16 << 30},
                    "vram": {"device": "a GPU", "free": 1 << 29, "whole": 8 << 30},
                    "disk": {"device": "/c/user", "free": 0, "whole": 1, "writable": True},
                }
            },
            [(NOTE, "0.5 GiB", "GPU"), (NOTE, "1.0 GiB", "RAM"), (NOTE, "/c/user", "0.0 GiB")],
            0,
        ),
    ],
    ids=[
        "fails", "unknown", "uncached", "double ids", "with an older one", "with a newer one",
        "replaced", "an older pack", "a newer pack", "fails beside another pack", "not installed",
        "broken pack", "broken MagCache", "another broken MagCache", "little memory",
    ],
)  # fmt: skip
def test_what_is_said_of_a_problem(
    changes: dict[str, Any], says: list[tuple[str, ...]], code: int
) -> None:
    findings = found(**changes)
    for said, (kind, *words) in zip(problems(findings), says, strict=True):
        assert said.kind == kind
        assert re.search(".*".join(map(re.escape, words)), f"{said.what} -> {said.advice}")
    assert status(problems(findings)) == code
    text = render.text(findings, problems(findings))
    assert all(problem.advice and problem.advice in text for problem in problems(findings))


def test_what_fails_comes_first() -> None:
    families = [Family("a", "A", UNKNOWN, "no"), Family("b", "B", FAILS, "is off")]
    kinds = [problem.kind for problem in problems(found(families=families, pack={}))]
    assert kinds == [PROBLEM, UNCHECKED]


def test_the_text_holds_what_was_looked_at_and_every_family() -> None:
    lines = render.text(found(seconds=12.3), []).splitlines()
    assert lines == [
        "ComfyUI 0.33.0 in /c",
        "Python 3.13.5 with torch 2.9.1: /c/venv/bin/python (found in /c/venv)",
        "MagCache 0.1.0, custom_nodes/ComfyUI-MagCache",
        "custom nodes: 1 of 1 loaded",
        "free: RAM 9.0 GiB of 16.0 GiB, disk 9.0 GiB of 16.0 GiB (/c/user)",
        "",
        "family   class       result         curve      skipped  skip error",
        "flux     Flux        works          published  4 of 8   6e-08",
        "cosmos1  GeneralDIT  runs uncached             0 of 8",
        "",
        "Of 2 models tried 1 work, 1 run uncached, in 12 s.",
        "  cosmos1: its blocks have names",
    ]


def test_the_markdown_names_no_folder_of_the_machine() -> None:
    text = render.markdown(found())
    assert text.startswith("## ComfyUI 0.33.0\n")
    assert "| flux | `Flux` | works | published | 4 of 8 | 6e-08 |" in text
    assert "- cosmos1 runs uncached: its blocks have names" in text
    assert "/c" not in text
