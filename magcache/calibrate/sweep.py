"""Runs many independent measurements, one by one here or in parallel on a Ray cluster."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

log = logging.getLogger("magcache")
_ATTEMPTS = 3  # attempts at a task whose worker dies, including the first


def sweep(
    count: int,
    task_of: Callable[[int], Task],
    work: Callable[[Task], Iterator[Result]],
    keep: Callable[[int, Result], None],
    address: str | None = None,
    gpus: float = 0,
) -> dict[int, Exception]:
    """Runs tasks and keeps each result as soon as it arrives.

    Args:
        count: Number of tasks.
        task_of: Makes the task of a number. Called again if its worker dies, so that it can leave
            out the results that were kept.
        work: Yields the results of a task. A function that all workers can import.
        keep: Called in this process with the number of a task and a result.
        address: None runs the tasks here. Otherwise a Ray cluster: "local" starts one on this
            machine, "auto" uses the one running on it, HOST:PORT and ray://HOST:PORT name one.
        gpus: GPUs per task, if the cluster has any.

    Returns:
        The errors of the tasks that failed, by number. Without a cluster, an error is raised if
        no result was kept before it, because then it most likely affects every task.

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
    """A Ray cluster. It is shut down after the sweep if the sweep started it."""

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
            # No retries by Ray: it would repeat the original task, and with it the kept results.
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
            except self._ray.exceptions.RayTaskError as error:  # raised by the work itself
                del running[stream]
                failed[number] = error.cause if isinstance(error.cause, Exception) else error
            except self._ray.exceptions.RayError as error:
                del running[stream]
                if attempts[number] == _ATTEMPTS:
                    failed[number] = error
                    continue
                attempts[number] += 1
                log.warning("a worker died, so its task was restarted: %s", error)
                running[begin(number)] = number
        return failed
