"""Shows the progress of a command on standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

OnStep = Callable[[str, int, int], None]
"""Called with the current task, its finished steps, and all its steps (0 if unknown)."""


@contextmanager
def shown() -> Iterator[OnStep]:
    """Shows a bar if standard error is a terminal and rich is installed, otherwise lines."""
    if not (sys.stderr.isatty() and find_spec("rich")):
        yield _in_lines()
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description:44}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda text, number, total: bar.update(
            task, description=escape(text), completed=number, total=total or None
        )


def _in_lines() -> OnStep:
    """Writes a line for each new task."""
    last = ""

    def on_step(text: str, number: int, total: int) -> None:
        nonlocal last
        if text != last:
            print(f"{text} ({number} of {total})" if number else text, file=sys.stderr, flush=True)
        last = text

    return on_step
