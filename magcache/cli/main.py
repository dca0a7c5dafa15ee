"""The command line: `magcache demo | plan | export | presets | calibrate | ...`."""

import argparse
import sys
from collections.abc import Sequence

from .. import __doc__ as description
from .. import __version__
from . import app, calibrate, calibrations, demo, doctor, export, plan, presets


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status. Mistakes in the arguments end with 2."""
    parser = argparse.ArgumentParser(prog="magcache", description=description)
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(extra="demo")  # what installs a package that is missing
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (demo, plan, export, presets, calibrate, calibrations, app, doctor):
        command.add_to(commands)
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed) or 0
    except (ValueError, OSError) as error:
        said = str(error)
    except ModuleNotFoundError as error:
        extra = "ray" if error.name == "ray" else parsed.extra
        said = f"{error.name} is missing, install it with: pip install 'magcache[{extra}]'"
    print(f"magcache: {said}", file=sys.stderr)
    return 2
