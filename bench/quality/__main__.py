"""The bench's command line."""

import argparse
import os
from pathlib import Path

os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")  # before anything imports it

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from . import cluster
from .bench import Bench
from .condition import Condition
from .counting import quiet
from .report import write
from .store import FOLDER, Store, calibration_path
from .subjects import SUBJECTS
from .ways import PLANNED

PAGES = {
    "emoji": Path("docs/benchmarks.md"),
    "emoji-video": Path("docs/benchmarks-video.md"),
    "emoji-unet": Path("docs/benchmarks-unet.md"),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Quality at equal cost of all ways of sampling.")
    parser.add_argument("--model", default="emoji", choices=sorted(SUBJECTS))
    parser.add_argument("--prompts", type=int, default=24, help="to compare on")
    for name, kind in (("steps", int), ("cfg", float), ("shift", float), ("sampler", str)):
        told = "only conditions with these, of the model's published ones"
        parser.add_argument(f"--{name}", type=kind, nargs="+", default=[], help=told)
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
    published = SUBJECTS[asked.model]().conditions
    for path in write(asked.model, published, asked.prompts, PAGES[asked.model], FOLDER):
        console.print(f"written: {path}")


def measure(asked: argparse.Namespace, console: Console) -> None:
    quiet()
    subject = SUBJECTS[asked.model]()
    columns = [SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.completed} samplings")]
    columns.append(TextColumn("{task.description}"))
    if not os.environ.get("COMFYUI_PATH"):
        console.print("EasyCache and LazyCache are left out: COMFYUI_PATH names no checkout")
    stores = (  # a generator: results to measure again are kept until their turn comes
        (condition, store_of(asked, subject.name, condition))
        for condition in subject.conditions
        if _asked(asked, condition)
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
    page = Path("bench-output/quality") / f"{asked.model}.md"
    for path in write(asked.model, subject.conditions, asked.prompts, page, FOLDER):
        console.print(f"written: {path}")


def _asked(asked: argparse.Namespace, condition: Condition) -> bool:
    wanted = vars(asked)
    fields = ("steps", "cfg", "shift", "sampler")
    return all(not wanted[f] or getattr(condition, f) in wanted[f] for f in fields)


def store_of(asked: argparse.Namespace, subject: str, condition: Condition) -> Store:
    """The stored results of a condition, without those to measure again."""
    store = Store(subject, condition)
    for way in asked.again:
        store.forget(way)
    if PLANNED in asked.again:
        calibration_path(subject, condition).unlink(missing_ok=True)
    return store


if __name__ == "__main__":
    main()
