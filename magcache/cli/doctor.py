"""The command `magcache doctor`: MagCache tried on every model family of a ComfyUI."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import __version__
from ..doctor import installation, render, session
from ..doctor.advice import problems, status
from ..doctor.findings import Findings

_DESCRIPTION = """Starts a ComfyUI in its own Python, with its custom nodes but with temporary
folders in place of its models, output and user data, tries MagCache on a tiny random model of every
family that this version has, and says what works, what does not and what to do. Exit status: 0 all
is fine, 1 something fails, 2 not all could be checked."""


def add_to(commands: Any) -> None:
    """Adds `doctor` to the commands of the command line's parser."""
    text = "check a ComfyUI installation"
    parser = commands.add_parser("doctor", help=text, description=_DESCRIPTION)
    text = "the folder with its main.py, or the one around it"
    parser.add_argument("--comfyui", type=Path, required=True, metavar="PATH", help=text)
    text = "what starts it; default: that of venv, .venv or python_embeded in it or beside it"
    parser.add_argument("--python", type=Path, metavar="PATH", help=text)
    text = "as you give it to ComfyUI: where custom_nodes and user are, if not in its own folder"
    parser.add_argument("--base-directory", type=Path, metavar="PATH", help=text)
    parser.add_argument("--cpu", action="store_true", help="compute on the CPU")
    text = "only this one; may be given several times"
    parser.add_argument("--family", action="append", default=[], metavar="NAME", help=text)
    text = "seconds after which it is ended; default 600"
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help=text)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print what was found as JSON")
    text = "print the table as Markdown, without what is particular to this machine"
    form.add_argument("--markdown", action="store_true", help=text)
    parser.set_defaults(run=_doctor, extra="demo")


def _doctor(arguments: argparse.Namespace) -> int:
    if not arguments.timeout > 0:
        raise ValueError(f"--timeout has to be above 0, got {arguments.timeout:g}")
    found = installation.find(arguments.comfyui, arguments.python, arguments.base_directory)
    findings = Findings(str(found.folder), str(found.python), found.python_from, __version__)
    start = time.monotonic()
    with _progress() as on_step:
        session.examine(
            found, findings, on_step, arguments.family, arguments.timeout, arguments.cpu
        )
    findings.seconds = round(time.monotonic() - start, 1)
    said = problems(findings)
    code = status(said)
    if arguments.json:
        text = json.dumps(findings.as_json(said, code), indent=1)
    elif arguments.markdown and findings.families:
        text = render.markdown(findings)
    else:
        text = render.text(findings, said)
    sys.stdout.write(text + "\n")
    return code


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Steps on standard error: a bar where rich is there, else a line each."""
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    except ModuleNotFoundError:
        yield _write_step
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _write_step
        return
    with Progress(
        TextColumn("{task.description:44}"), BarColumn(), MofNCompleteColumn(), console=console,
        transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=None)
        yield lambda text, number, total: bar.update(
            task, description=escape(text), completed=number, total=total or None
        )


def _write_step(text: str, number: int, total: int) -> None:
    sys.stderr.write(f"{text} ({number} of {total})\n" if total else f"{text}\n")
