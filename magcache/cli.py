"""The command line: `magcache demo | plan | presets | calibrations`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __doc__ as description
from . import __version__, cli_calibrations, presets
from .calibration import Calibration
from .plan import FEW_STEPS, Schedule, plan
from .presets import Preset

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
        extra = f"pip install 'magcache[{parsed.extra}]'"
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

    planned = commands.add_parser("plan", help="print a schedule without running anything")
    source = planned.add_mutually_exclusive_group(required=True)
    source.add_argument("--preset", help="see `magcache presets`")
    source.add_argument("--calibration", help="a stored calibration, or a file")
    planned.add_argument("--steps", type=int, help="steps of the run; default the curve's own")
    planned.add_argument("--shift", type=float, help="flow-matching shift; default the curve's own")
    planned.add_argument("--threshold", type=float, help="default: the recommended one")
    planned.add_argument("--max-skip", type=int, metavar="K", help="default: the recommended one")
    planned.add_argument("--retention", type=float, help="default: the recommended one")
    planned.add_argument("--start-step", type=int, default=0)
    planned.add_argument("--end-step", type=int, default=-1)
    planned.add_argument("--json", action="store_true")
    planned.set_defaults(run=_plan, extra="demo")

    listed = commands.add_parser("presets", help="list the published curves and their settings")
    listed.add_argument("--json", action="store_true")
    listed.set_defaults(run=_presets, extra="demo")

    cli_calibrations.add_to(commands)
    return parser


def _presets(arguments: argparse.Namespace) -> int:
    found = [presets.load(name) for name in presets.names()]
    keys = ("name", "family", "steps", "threshold", "retention", "max_skip", "note")
    rows = [{key: getattr(preset, key) for key in keys} for preset in found]
    if arguments.json:
        return _write(json.dumps(rows, indent=1))
    head = f"{'name':26} {'family':18} {'steps':>5} {'threshold':>9} {'retention':>9} {'K':>3}"
    lines = [
        f"{r['name']:26} {r['family']:18} {r['steps']:5} {_figure(r['threshold']):>9} "
        f"{_figure(r['retention']):>9} {_figure(r['max_skip']):>3}"
        for r in rows
    ]
    return _write("\n".join([head, *lines]))


def _plan(arguments: argparse.Namespace) -> int:
    source: Preset | Calibration
    if arguments.preset:
        source = presets.load(arguments.preset)
    else:
        source = cli_calibrations.stored_or_file(arguments.calibration)
    rule = source.rule(
        threshold=arguments.threshold,
        max_skip=arguments.max_skip,
        retention=arguments.retention,
        start_step=arguments.start_step,
        end_step=arguments.end_step,
    )
    trajectory = source.trajectory(arguments.steps, arguments.shift)
    schedule = plan(rule, source.curves, trajectory)
    notes = _plan_notes(schedule, source)
    if arguments.json:
        figures = {
            "name": source.name,
            "steps": len(schedule.sigmas),
            "threshold": rule.threshold,
            "max_skip": rule.max_skip,
            "retention": rule.retention,
            "schedule": str(schedule),
            "computed": schedule.computed,
            "skipped": schedule.skipped,
            "speedup_at_most": round(schedule.speedup(), 3),
            "sigmas": [round(sigma, 6) for sigma in schedule.sigmas],
            "reasons": [reason.value for reason in schedule.reasons],
            "notes": notes,
        }
        return _write(json.dumps(figures, indent=1))
    lines = [
        f"{source.name}, {len(schedule.sigmas)} steps: threshold {rule.threshold:g}, "
        f"K {rule.max_skip}, retention {rule.retention:g}",
        str(schedule),
        f"{schedule.computed} computed (#), {schedule.skipped} skipped (.): "
        f"{schedule.speedup():.2f}x where a skipped evaluation costs nothing, "
        f"{schedule.speedup(0.03):.2f}x where it costs 3 %",
    ]
    return _write("\n".join(lines + [f"note: {note}" for note in notes]))


def _plan_notes(schedule: Schedule, source: Preset | Calibration) -> list[str]:
    notes = [source.note] if isinstance(source, Preset) and source.note else []
    if any(curve.over == "fraction" for curve in source.curves.values()):
        notes.append("the list's schedule is unknown: it is used by fraction of the trajectory")
    if len(schedule.sigmas) < FEW_STEPS:
        notes.append(f"below {FEW_STEPS} steps there is little to gain")
    return notes


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
        quality = (
            (f"{far.psnr:.2f}", f"{far.ssim:.3f}", _figure(far.flip, ".3f"))
            if far
            else ("", "", "")
        )
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
