"""The bench's command line."""

import argparse
import itertools
import logging
import os
import warnings
from pathlib import Path

os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")  # before anything imports it

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from . import cluster
from .bench import Bench
from .condition import Condition
from .counting import one_thread
from .report import write
from .store import FOLDER, Store, calibration_path
from .subjects import SUBJECTS
from .ways import PLANNED

PAGES = {"emoji": Path("docs/benchmarks.md"), "emoji-video": Path("docs/benchmarks-video.md")}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Quality at equal cost of all ways of sampling.")
    parser.add_argument("--model", default="emoji", choices=sorted(SUBJECTS))
    parser.add_argument("--prompts", type=int, default=64, help="to compare on")
    parser.add_argument("--steps", type=int, nargs="+", default=[28, 50])
    parser.add_argument("--cfg", type=float, nargs="+", default=[3.0, 1.0])
    parser.add_argument("--shift", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--way", nargs="+", default=[], help="only these, by name")
    parser.add_argument("--again", nargs="+", default=[], help="ways to forget and measure anew")
    parser.add_argument("--ray", metavar="ADDRESS", help="on a Ray cluster")
    parser.add_argument("--report", action="store_true", help="only write docs/benchmarks*.md")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    console = Console()
    if not asked.report:
        measure(asked, console)
        return
    for path in write(asked.model, asked.prompts, PAGES[asked.model], FOLDER):
        console.print(f"written: {path}")


def measure(asked: argparse.Namespace, console: Console) -> None:
    one_thread()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)  # rivals warn at every sampling
    subject = SUBJECTS[asked.model]()
    columns = [SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.completed} samplings")]
    columns.append(TextColumn("{task.description}"))
    if not os.environ.get("COMFYUI_PATH"):
        console.print("EasyCache and LazyCache are left out: COMFYUI_PATH names no checkout")
    stores = (  # each made as its turn comes: what is to be measured again is kept until then
        (condition := Condition(*values), store_of(asked, subject.name, condition))
        for values in itertools.product(asked.steps, asked.cfg, asked.shift)
    )
    if asked.ray:
        for note in cluster.measure(asked, list(stores)):
            console.print(note)
        return
    for condition, store in stores:
        bench = Bench(subject, condition, asked.prompts, store)
        console.print(f"[bold]{subject.name}, {condition}, {asked.prompts} prompts")
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=None)

            def tell(what: str, progress: Progress = progress, task: object = task) -> None:
                progress.update(task, advance=1, description=what)  # type: ignore[arg-type]

            bench.run(tell, asked.way)
        for note in bench.notes:
            console.print(note)
    for path in write(asked.model, asked.prompts, FOLDER / "report.md", FOLDER):
        console.print(f"written: {path}")


def store_of(asked: argparse.Namespace, subject: str, condition: Condition) -> Store:
    """What is stored of a condition, less what is to be measured again."""
    store = Store(subject, condition)
    for way in asked.again:
        store.forget(way)
    if PLANNED in asked.again:
        calibration_path(subject, condition).unlink(missing_ok=True)
    return store


if __name__ == "__main__":
    main()
