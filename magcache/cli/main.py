"""The command line: `magcache demo | plan | measure | calibrate | ...`."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __doc__ as description
from .. import __version__
from . import app, calibrate, calibrations, demo, doctor, export, measure, plan, presets
from .signals import Ended, raised_as_ended


class _Parser(argparse.ArgumentParser):
    """Reports mistakes in the same way as the commands."""

    def error(self, message: str) -> NoReturn:
        raise _Mistake(f"{message.removeprefix('argument ')} (`{self.prog} --help` says more)")


class _Mistake(ValueError):
    """The arguments are wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status.

    The status is 2 after an error, and 128 plus the signal's number if a signal ended the command.
    Either is reported in one line on standard error.
    """
    parser = _Parser(prog="magcache", description=description)
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(extra="demo")  # the extra that installs a missing package
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (demo, plan, export, presets, calibrate, calibrations, measure, app, doctor):
        command.add_to(commands)
    status = 2
    try:
        with raised_as_ended():
            said, status = _run(parser, arguments)
    except Ended as ended:
        said, status = f"{ended}{ended.kept and f'; {ended.kept}'}", ended.status
    if said:
        print(f"magcache: {said}", file=sys.stderr)
    return status


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> tuple[str, int]:
    """The error message, "" without one, and the exit status."""
    parsed = argparse.Namespace(extra="demo")
    try:
        parsed = parser.parse_args(arguments)
        status = parsed.run(parsed) or 0
        sys.stdout.flush()
        return "", status
    except BrokenPipeError:  # a reader such as `head` has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "", 141
    except ModuleNotFoundError as error:
        extra = "ray" if error.name == "ray" else parsed.extra
        said = f"{error.name} is missing, install it with: pip install 'magcache[{extra}]'"
    except OSError as error:
        known = error.strerror and error.filename is not None
        said = f"{error.filename}: {error.strerror}" if known else str(error)
    except (ValueError, MemoryError) as error:
        said = str(error) or "there is not enough memory"
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        said = (
            f"it failed unexpectedly, {type(error).__name__}: {error}; to see where, run "
            "`python -X dev -m magcache.cli ...`"
        )
    return " ".join(said.split()), 2
