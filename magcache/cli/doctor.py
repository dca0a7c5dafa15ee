"""The command `magcache doctor`: tries MagCache on every model family of a ComfyUI."""

import argparse
import json
import time
from typing import Any

from .. import __version__
from ..doctor import installation, render, session
from ..doctor.advice import problems, status
from ..doctor.findings import Findings
from . import progress
from .values import a_path, given, number

_DAY = 86_400  # seconds
_DESCRIPTION = """Starts your ComfyUI with its own Python and custom nodes, but with temporary
folders instead of its models, output and user data. Tries MagCache on a tiny random model of every
family in this version. Says what works, what does not, and what to do. Exit status: 0 if all is
well, 1 if something fails, 2 if not everything could be checked."""


def add_to(commands: Any) -> None:
    """Adds `doctor` to the commands of the command line's parser."""
    text = "check a ComfyUI installation"
    parser = commands.add_parser("doctor", help=text, description=_DESCRIPTION)
    text = "the folder with its main.py, or the parent folder"
    parser.add_argument("--comfyui", type=a_path, required=True, metavar="PATH", help=text)
    text = (
        "the Python that runs it; default: this one if it has ComfyUI's packages, otherwise that "
        "in venv, .venv or python_embeded in the folder or beside it"
    )
    parser.add_argument("--python", type=a_path, metavar="PATH", help=text)
    text = "as for ComfyUI itself: the folder of custom_nodes and user, if it is another one"
    parser.add_argument("--base-directory", type=a_path, metavar="PATH", help=text)
    parser.add_argument("--cpu", action="store_true", help="run on the CPU")
    text = "check only this family; may be repeated"
    parser.add_argument(
        "--family", action="append", type=given, default=[], metavar="NAME", help=text
    )
    text = "stop after this many seconds; default 600"
    seconds = number(0, _DAY, above=True)
    parser.add_argument("--timeout", type=seconds, default=600.0, metavar="SECONDS", help=text)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the findings as JSON")
    text = "print the table as Markdown, without details of this machine"
    form.add_argument("--markdown", action="store_true", help=text)
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    found = installation.find(arguments.comfyui, arguments.python, arguments.base_directory)
    findings = Findings(str(found.folder), str(found.python), found.python_from, __version__)
    start = time.monotonic()
    with progress.shown() as on_step:
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
    print(text)
    return code
