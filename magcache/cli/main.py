"""The command line: `magcache demo | plan | export | presets | calibrate | ...`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __doc__ as description
from .. import __version__
from ..curves import presets
from . import app as cli_app
from . import calibrate as cli_calibrate
from . import calibrations as cli_calibrations
from . import doctor as cli_doctor
from . import export as cli_export
from . import plan as cli_plan

if TYPE_CHECKING:
    from rich.console import Console

    from .demo import Demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status. Mistakes in the arguments end with 2."""
    parsed = _parser().parse_args(arguments)
    try:
        return parsed.run(parsed)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"magcache: {error}\n")
        return 2
    except ModuleNotFoundError as error:
        name = "ray" if error.name == "ray" else parsed.extra
        extra = f"pip install 'magcache[{name}]'"
        sys.stderr.write(f"magcache: {error.name} is missing, install it with: {extra}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="magcache", description=description)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="sample the emoji model with and without MagCache")
    demo.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to write to")
    demo.add_argument("--steps", type=int, default=28)
    demo.add_argument("--json", action="store_true", help="print the figures as JSON instead")
    demo.set_defaults(run=_demo, extra="demo")

    cli_plan.add_to(commands)
    cli_export.add_to(commands)

    listed = commands.add_parser("presets", help="list the published curves and their settings")
    listed.add_argument("--json", action="store_true")
    listed.set_defaults(run=_presets, extra="demo")

    cli_calibrate.add_to(commands)
    cli_calibrations.add_to(commands)
    cli_app.add_to(commands)
    cli_doctor.add_to(commands)
    return parser


def _presets(arguments: argparse.Namespace) -> int:
    found = [presets.load(name) for name in presets.names()]
    rows = [
        {
            "name": preset.name,
            "family": preset.family,
            "steps": preset.settings["steps"],
            "threshold": preset.threshold,
            "retention": preset.retention,
            "max_skip": preset.max_skip,
            "note": preset.note,
        }
        for preset in found
    ]
    if arguments.json:
        return _write(json.dumps(rows, indent=1))
    head = f"{'name':26} {'family':18} {'steps':>5} {'threshold':>9} {'retention':>9} {'K':>3}"
    lines = [
        f"{r['name']:26} {r['family']:18} {r['steps']:5} {_figure(r['threshold']):>9} "
        f"{_figure(r['retention']):>9} {_figure(r['max_skip']):>3}"
        for r in rows
    ]
    return _write("\n".join([head, *lines]))


def _demo(arguments: argparse.Namespace) -> int:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of a missing torchvision
    import torch
    from rich.console import Console

    from . import demo

    torch.set_num_threads(1)  # so small a model is slower on more
    console = Console(stderr=True)
    result = demo.run(_progress_on(console), arguments.steps)
    written = result.write(arguments.output)
    if arguments.json:
        _write(json.dumps(result.figures(), indent=1))
    else:
        _show_demo(Console(), result)
    for path in written:
        console.print(f"wrote {path}", highlight=False)
    return 0


def _show_demo(console: "Console", result: "Demo") -> None:
    from rich import box
    from rich.table import Table

    title = f"{len(result.prompts)} emoji, 32x32, CFG 3; differences are from the uncached run"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("", "computed", "skipped", "seconds", "speed-up", "PSNR", "SSIM", "FLIP"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in result.rows:
        far = row.difference
        quality = (f"{far.psnr:.2f}", f"{far.ssim:.3f}", f"{far.flip:.3f}") if far else ("", "", "")
        counts = (str(row.computed), str(row.skipped), f"{row.seconds:.2f}", f"{row.speedup:.2f}x")
        table.add_row(row.name, *counts, *quality)
    console.print(table)
    for report in result.reports.values():
        console.print(report.headline(), highlight=False)
        console.print(f"  {report.schedule}", highlight=False)


def _progress_on(
    console: "Console",
) -> Callable[[str, int], AbstractContextManager[Callable[[], None]]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    @contextmanager
    def progress(name: str, length: int) -> Iterator[Callable[[], None]]:
        columns: list[Any] = [TextColumn("{task.description:20}"), BarColumn()]
        with Progress(*columns, MofNCompleteColumn(), TimeElapsedColumn(), console=console) as bar:
            task = bar.add_task(name, total=length)
            yield lambda: bar.advance(task)

    return progress


def _figure(value: float | None, form: str = "g") -> str:
    return "-" if value is None else format(value, form)


def _write(text: str) -> int:
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
