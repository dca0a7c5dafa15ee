"""Sweeps: one after another here, or on a Ray cluster that is started on this machine."""

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from magcache import cli
from magcache.calibrate.sweep import sweep
from magcache.curves.store import Store

RAY = importlib.util.find_spec("ray") is not None
on_ray = pytest.mark.skipif(not RAY, reason="Ray is not installed: pip install 'magcache[ray]'")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of two workers, started once for the tests of this file."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=80_000_000)
    yield "auto"
    ray.shutdown()


def squares(task: list[int]) -> Iterator[tuple[int, int]]:
    for number in task:
        yield number, number * number


def dies_once(task: tuple[Path, list[int]]) -> Iterator[int]:
    """Yields numbers, and is killed before the third the first time."""
    folder, numbers = task
    for number in numbers:
        with (folder / "log").open("a") as log:
            log.write(f"{number}\n")
        if number == 2 and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield number
        time.sleep(0.05)


def always_dies(_task: int) -> Iterator[int]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield 0


def fails_on_1(task: int) -> Iterator[int]:
    if task == 1:
        raise ValueError("one is refused")
    yield task


def test_here_tasks_are_worked_on_in_order() -> None:
    kept: list[Any] = []
    keep = lambda number, result: kept.append((number, result))  # noqa: E731
    assert sweep(2, lambda number: [number, 5], squares, keep) == {}
    assert kept == [(0, (0, 0)), (0, (5, 25)), (1, (1, 1)), (1, (5, 25))]


def test_here_an_error_in_one_task_leaves_the_others() -> None:
    kept: dict[int, int] = {}
    failed = sweep(3, lambda number: number, fails_on_1, kept.__setitem__)
    assert kept == {0: 0, 2: 2} and str(failed[1]) == "one is refused"


def test_here_an_error_in_the_first_task_is_raised() -> None:
    with pytest.raises(ValueError, match="one is refused"):
        sweep(3, lambda _: 1, fails_on_1, lambda *_: None)


@on_ray
def test_on_a_cluster_all_results_come(cluster: str) -> None:
    kept: list[Any] = []
    keep = lambda number, result: kept.append((number, result))  # noqa: E731
    assert sweep(3, lambda number: [number, 5], squares, keep, cluster) == {}
    assert sorted(kept) == [(n, (m, m * m)) for n in range(3) for m in (n, 5)]


@on_ray
def test_a_killed_worker_loses_no_finished_result(cluster: str, tmp_path: Path) -> None:
    kept: list[int] = []

    def task(_number: int) -> tuple[Path, list[int]]:
        return tmp_path, [number for number in range(5) if number not in kept]

    failed = sweep(1, task, dies_once, lambda _, result: kept.append(result), cluster)
    assert failed == {} and kept == [0, 1, 2, 3, 4]
    log = (tmp_path / "log").read_text().split()
    assert log == ["0", "1", "2", "2", "3", "4"]  # only the unfinished one is done again


@on_ray
def test_a_task_that_always_kills_its_worker_is_given_up_and_named(cluster: str) -> None:
    failed = sweep(1, lambda number: number, always_dies, lambda *_: None, cluster)
    assert list(failed) == [0] and "died" in str(failed[0])


@on_ray
def test_an_error_in_one_task_leaves_the_others(cluster: str) -> None:
    kept: dict[int, int] = {}
    failed = sweep(3, lambda number: number, fails_on_1, kept.__setitem__, cluster)
    assert kept == {0: 0, 2: 2}
    assert [(number, str(error)) for number, error in failed.items()] == [(1, "one is refused")]


@on_ray
def test_calibrating_prompts_on_a_cluster_is_calibrating_them_here(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ["--prompt=fox", "--prompt=cat", "--steps=9", "--device=cpu"]
    for place in ([], [f"--ray={cluster}"]):
        home = tmp_path / ("there" if place else "here")
        assert cli.main(["calibrate", "emoji", *prompts, f"--home={home}", *place]) == 0
    (here,) = Store(tmp_path / "here").calibrations().values()
    (there,) = Store(tmp_path / "there").calibrations().values()
    assert there.branches.keys() == here.branches.keys()
    for branch, measured in here.branches.items():
        assert there.branches[branch].ratios == pytest.approx(measured.ratios, abs=1e-5)
    assert there.prompts == 2


@pytest.mark.skipif(RAY, reason="Ray is installed here")
def test_without_ray_the_command_that_installs_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["calibrate", "emoji", "--steps=9", f"--home={tmp_path}", "--ray=local"]
    assert cli.main(options) == 2
    said = capsys.readouterr().err
    assert "ray is missing, install it with: pip install 'magcache[ray]'" in said
