"""Many independent measurements, one after another here or at once on a Ray cluster."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

log = logging.getLogger("magcache")
_ATTEMPTS = 3  # a task whose worker dies is begun again so often in all


def sweep(
    count: int,
    task_of: Callable[[int], Task],
    work: Callable[[Task], Iterator[Result]],
    keep: Callable[[int, Result], None],
    address: str | None = None,
    gpus: float = 0,
) -> dict[int, Exception]:
    """Works on tasks and keeps each result as soon as it is known.

    Args:
        count: How many tasks there are.
        task_of: Makes a task; asked again where its worker has died, so that it can leave out
            what is kept already.
        work: Yields a task's results; a function of a module that all workers can import.
        keep: Called in this process with a task's number and a result.
        address: None works here. Else a Ray cluster: "local" starts one on this machine, "auto"
            takes the one that runs on it, HOST:PORT and ray://HOST:PORT name one.
        gpus: How many GPUs a task takes, where the cluster has any.

    Returns:
        What ended tasks before they were done. An error here is raised as long as nothing was
        kept: it is most likely one of all tasks.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: There is no cluster at `address`.
    """
    if address is not None:
        return _Cluster(address, gpus).sweep(count, task_of, work, keep)
    failed: dict[int, Exception] = {}
    kept = 0
    for number in range(count):
        try:
            for result in work(task_of(number)):
                keep(number, result)
                kept += 1
        except Exception as error:
            if not kept:
                raise
            failed[number] = error
    return failed


class _Cluster:
    """A Ray cluster; ended with the sweep where it was started for it."""

    def __init__(self, address: str, gpus: float) -> None:
        import ray

        self._ray = ray
        self._address = address
        self._gpus = gpus

    def sweep(
        self,
        count: int,
        task_of: Callable[[int], Any],
        work: Callable[[Any], Iterator[Any]],
        keep: Callable[[int, Any], None],
    ) -> dict[int, Exception]:
        begun_here = not self._ray.is_initialized()
        if begun_here:
            own = {"include_dashboard": False} if self._address == "local" else {}
            self._ray.init(self._address, log_to_driver=False, **own)
        try:
            has_gpus = self._ray.cluster_resources().get("GPU", 0) > 0
            # Ray's own repetition begins with the task as it was: what is kept would come twice.
            options = {"num_returns": "streaming", "max_retries": 0, "num_cpus": 1}
            remote = self._ray.remote(**options, num_gpus=self._gpus if has_gpus else 0)(work)
            return self._collect(count, lambda number: remote.remote(task_of(number)), keep)
        finally:
            if begun_here:
                self._ray.shutdown()

    def _collect(
        self,
        count: int,
        begin: Callable[[int], Any],
        keep: Callable[[int, Any], None],
    ) -> dict[int, Exception]:
        failed: dict[int, Exception] = {}
        attempts = dict.fromkeys(range(count), 1)
        running = {begin(number): number for number in range(count)}
        while running:
            (stream, *_), _ = self._ray.wait(list(running), num_returns=1)
            number = running[stream]
            try:
                keep(number, self._ray.get(next(stream)))
                continue
            except StopIteration:
                del running[stream]
            except self._ray.exceptions.RayTaskError as error:  # the work itself has raised
                del running[stream]
                failed[number] = error.cause if isinstance(error.cause, Exception) else error
            except self._ray.exceptions.RayError as error:
                del running[stream]
                if attempts[number] == _ATTEMPTS:
                    failed[number] = error
                    continue
                attempts[number] += 1
                log.warning("a worker has died, its task is begun again: %s", error)
                running[begin(number)] = number
        return failed
