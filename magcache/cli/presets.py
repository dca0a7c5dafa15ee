"""The command `magcache presets`: lists the published curves and their settings."""

import argparse
import json
from typing import Any

from ..curves import presets

_LINE = "{:26} {:18} {:>5} {:>9} {:>9} {:>3}"


def add_to(commands: Any) -> None:
    """Adds `presets` to the commands of the command line's parser."""
    parser = commands.add_parser("presets", help="list the published curves and their settings")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=_presets)


def _presets(arguments: argparse.Namespace) -> None:
    rows = []
    for name in presets.names():
        preset = presets.load(name)
        row = {"name": name, "family": preset.family, "steps": preset.settings["steps"]}
        row |= {key: getattr(preset, key) for key in ("threshold", "retention", "max_skip", "note")}
        rows.append(row)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(_LINE.format("name", "family", "steps", "threshold", "retention", "K"))
    for row in rows:
        print(_LINE.format(*("-" if value is None else value for value in row.values())))
