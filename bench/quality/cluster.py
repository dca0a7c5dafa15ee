"""Runs the bench on a Ray cluster: each way in a condition is a task; results are stored here.

Results arrive one by one, so a worker that dies loses at most its current one. Work is counted in
the same way everywhere.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from magcache.calibrate import sweep

from .bench import Bench, hosts_of
from .condition import Condition
from .counting import one_thread
from .store import Result, Store
from .subjects import SUBJECTS


@dataclass(frozen=True)
class Task:
    """One way in one condition; `known` results are not measured again."""

    model: str
    condition: Condition
    prompts: int
    way: str
    known: tuple[Result, ...]


def measure(asked: argparse.Namespace, stores: Sequence[tuple[Condition, Store]]) -> list[str]:
    """Measures everything not stored yet; returns what could not be measured, and why."""
    ways = asked.way or _ways(asked.model, stores[0][0])
    work = [(condition, store, way) for condition, store in stores for way in ways]
    notes: list[str] = []

    def task(number: int) -> Task:
        condition, store, way = work[number]
        return Task(asked.model, condition, asked.prompts, way, tuple(store.results.values()))

    def keep(number: int, found: Result | str) -> None:
        store = work[number][1]
        if isinstance(found, str):
            notes.append(found)
        elif found.key not in store.results:  # the uncached run comes with each way
            store.add(found)

    failed = sweep(len(work), task, results_of, keep, asked.ray)
    return notes + [f"{work[n][2]}, {work[n][0]}: {error}" for n, error in failed.items()]


def _ways(model: str, condition: Condition) -> list[str]:
    """The names of all ways that can be sampled here."""
    ways: list[str] = []
    for host in hosts_of(SUBJECTS[model](), condition):
        with closing(host):
            ways += host.ways()
    return ways


def results_of(task: Task) -> Iterator[Result | str]:
    """Yields each result, then what could not be measured; runs on a worker."""
    one_thread()
    found: SimpleQueue[Result | None] = SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        store = _Told(task, Path(folder), found)
        bench = Bench(SUBJECTS[task.model](), task.condition, task.prompts, store)

        def run() -> None:
            try:
                bench.run(lambda _: None, [task.way])
            finally:
                found.put(None)

        thread = Thread(target=run)
        thread.start()
        while (result := found.get()) is not None:
            yield result
        thread.join()
    if bench.notes:
        yield "; ".join(bench.notes)


class _Told(Store):
    """Holds a task's results, and reports each new one."""

    def __init__(self, task: Task, folder: Path, found: "SimpleQueue[Result | None]") -> None:
        super().__init__(task.model, task.condition, folder)
        self.results = {result.key: result for result in task.known}
        self._found = found

    def add(self, result: Result) -> None:
        super().add(result)
        self._found.put(result)
