"""The command `magcache export`: writes a curve for another program that has MagCache."""

import argparse
import json
import sys
from typing import Any

from ..export import ENGINES, compose, export
from ..hosts import families_of
from .plan import add_curve_and_rule, chosen_rule, curve_of
from .values import a_path, check_new_file


def add_to(commands: Any) -> None:
    """Adds `export` to the commands of the command line's parser."""
    parser = commands.add_parser("export", help="write a curve for another program's MagCache")
    text = "the program, see docs/engines.md"
    parser.add_argument("--to", required=True, choices=ENGINES, help=text)
    add_curve_and_rule(parser)
    parser.add_argument("--output", type=a_path, metavar="FILE", help="default: print it")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        check_new_file(arguments.output)
    source = curve_of(arguments)
    trajectory = source.trajectory(arguments.steps, arguments.shift)
    composed = compose(source, chosen_rule(arguments, source), trajectory, arguments.shift)
    families = () if source.family else families_of(source.model)
    text = json.dumps(export(arguments.to, source, composed, families), indent=1)
    if arguments.output is None:
        print(text)
    else:
        arguments.output.write_text(text + "\n", encoding="utf-8")
    shift = "" if composed.shift is None else f", shift {composed.shift:g}"
    engine = ENGINES[arguments.to]
    told = f"{source.name} for {engine.title}, {trajectory.steps} steps{shift}: {composed.schedule}"
    print(told, engine.place, sep="\n", file=sys.stderr)
