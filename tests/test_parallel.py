"""Notes between processes, and measurements of parts pooled to that of the whole.

Threads stand in for processes here; tests/diffusers_host/test_parallel.py has real ones.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from magcache.calibrate import entries
from magcache.calibrate.calibrator import Calibrator
from magcache.curves import CalibrationError, Measurement
from magcache.curves.magnitude import MagnitudeCurve, Trajectory
from magcache.decide import Course, Rule, Target, decider_for
from magcache.parallel import peers as parallel
from magcache.parallel.peers import ParallelError, Peers, described
from magcache.parallel.pooled import PooledCalibrator
from tests.calibrations import calibration
from tests.toys import decider_of

_groups = count(100)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PATIENCE", 0.3)
    monkeypatch.setattr(parallel, "GRACE", 0.05)


def peers(number: int) -> list[Peers]:
    """The same group as each of its processes sees it."""
    first = 10 * next(_groups)
    ranks = range(first, first + number)
    store = torch.distributed.HashStore()
    made = []
    for rank in ranks:
        parallel._joined[tuple(ranks)] = 0  # each process counts for itself
        made.append(Peers(ranks, rank, store))
    return made


def each(group: list[Peers], work: Callable[[Peers], Any]) -> list[Any]:
    """What each returns, or the error that it raises."""

    def caught(one: Peers) -> Any:
        try:
            return work(one)
        except ParallelError as error:
            return error

    with ThreadPoolExecutor(len(group)) as threads:
        return list(threads.map(caught, group))


def test_processes_with_the_same_settings_agree_run_after_run() -> None:
    group = peers(3)
    for _ in range(4):
        assert each(group, lambda one: one.agree({"settings": "K 3"})) == [None] * 3


def test_what_differs_is_named_on_all() -> None:
    group = peers(3)
    first = group[0].rank
    settings = {first: "0.1", first + 1: "0.2", first + 2: "0.1"}
    errors = each(group, lambda one: one.agree({"threshold": settings[one.rank], "K": "3"}))
    expected = f"threshold (0.1 on rank {first}, {first + 2}, 0.2 on rank {first + 1})"
    assert len({str(error) for error in errors}) == 1 and expected in str(errors[0])


def test_after_a_disagreement_they_may_agree() -> None:
    group = peers(2)
    assert all(each(group, lambda one: one.agree({"rank": str(one.rank)})))
    assert each(group, lambda one: one.agree({"rank": "any"})) == [None] * 2


def test_one_that_does_not_come_is_named() -> None:
    group = peers(2)
    with pytest.raises(ParallelError, match=rf"rank {group[1].rank} did not answer within 0.3 s"):
        group[0].agree({})


def test_one_that_failed_is_not_waited_for() -> None:
    group = peers(2)
    group[1].fail(MemoryError("full"))
    with pytest.raises(ParallelError, match=r"failed: MemoryError\('full'\)"):
        group[0].agree({})


def test_one_that_failed_may_come_again() -> None:
    group = peers(2)
    group[1].fail(MemoryError("full"))
    assert each(group, lambda one: one.agree({})) == [None] * 2


def test_old_notes_are_not_kept() -> None:
    group = peers(2)
    for _ in range(5):
        each(group, lambda one: one.agree({}))
    own = [f"{number}/settings/{group[0].rank}" for number in range(1, 6)]
    assert [group[0]._store.check([key]) for key in own] == [False, False, False, True, True]


def test_all_that_decides_is_compared() -> None:
    def ruled(threshold: float = 0.1, steps: int = 10, slope: float = 1.0) -> dict[str, str]:
        sigmas = [1 - step / steps for step in range(steps)]
        curve = MagnitudeCurve((1.0, 0.0), (0.0, slope))
        decider = decider_of(Rule(threshold, 3, 0.2), {"cond": curve}, Trajectory(tuple(sigmas)))
        return described(decider, "preset")

    def differing(other: dict[str, str]) -> list[str]:
        return [name for name, value in ruled().items() if other[name] != value]

    assert differing(ruled()) == []
    assert differing(ruled(threshold=0.2)) == ["settings"]
    assert differing(ruled(steps=9)) == ["noise levels"]
    assert differing(ruled(slope=1.001)) == ["curve"]
    assert differing(ruled(slope=1 + 1e-12)) == []  # another machine's rounding


def test_a_plan_is_compared_with_what_it_is_made_of() -> None:
    def plan(speedup: float = 2.0, guidance: float = 3.0, turn: float = 1.0) -> dict[str, str]:
        known = calibration(10)
        sigmas = known.trajectory(8).sigmas
        grams = known.grams
        if turn != 1:
            matrix = grams["cond"].correlations.copy()
            matrix[0, 1] = matrix[1, 0] = matrix[0, 1] * turn
            grams = {"cond": type(grams["cond"])(grams["cond"].norms, matrix)}
        target = Target(speedup)
        decider = decider_for(target, Course.of_steps(Trajectory(sigmas)), {}, grams, guidance)
        return described(decider, "mine")

    own = plan()
    assert plan() == own
    for other in (plan(speedup=3), plan(guidance=1), plan(turn=0.99)):
        assert other != own


# Measurements


@pytest.fixture
def _all_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that hold every entry once, so that inner products are exact."""
    everything = lambda residual, _count: tuple(torch.arange(t.numel()) for t in residual)  # noqa: E731
    monkeypatch.setattr(entries, "places", everything)


def residuals(tokens: int = 12, count: int = 5) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 2, tokens, 8, generator=draw)
    return list((noise.cumsum(0) + 3) * torch.linspace(1, 2, tokens)[:, None])


def measured(calibrator: Calibrator, parts: list[Tensor]) -> None:
    for step, part in enumerate(parts):
        calibrator.add("calls", ("cond",), 1 - step / 10, (part,))


def whole(parts: list[Tensor]) -> Measurement:
    calibrator = Calibrator()
    measured(calibrator, parts)
    return calibrator.finish()["cond"]


def pooled(
    shards: list[list[Tensor]], padding: int = 0, length: int = 0
) -> list[dict[str, Measurement]]:
    """What each process's calibration is; `length` tokens before each but the first."""
    group = peers(len(shards))

    def work(one: Peers) -> dict[str, Measurement]:
        place = group.index(one)
        share = (lambda tokens: (tokens * len(shards), tokens * place)) if padding else None
        one.agree({})
        calibrator = PooledCalibrator(one, padding, share)
        measured(calibrator, shards[place])
        return calibrator.finish()

    return each(group, work)


def same(found: Measurement, expected: Measurement) -> None:
    assert found.sigmas == expected.sigmas
    for name in ("ratios", "spreads", "cosine_distances", "norms"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-4, abs=1e-6)
    assert np.allclose(found.matrix(), expected.matrix(), atol=1e-5)


@pytest.mark.usefixtures("_all_entries")
@pytest.mark.parametrize("sizes", [(6, 6), (3, 3, 3, 3), (5, 4, 3)])
def test_parts_pool_to_the_whole(sizes: tuple[int, ...]) -> None:
    parts = residuals()
    split = [tensor.split(sizes, 1) for tensor in parts]
    found = pooled([[tokens[place] for tokens in split] for place in range(len(sizes))])
    for theirs in found:
        same(theirs["cond"], whole(parts))


@pytest.mark.usefixtures("_all_entries")
@pytest.mark.parametrize("padding", [1, 4, 7])  # 7: the last process has nothing else
def test_padding_is_not_measured(padding: int) -> None:
    real = residuals(12 - padding)
    padded = [torch.cat([tensor, torch.full((2, padding, 8), 1e3)], 1) for tensor in real]
    split = [tensor.chunk(2, 1) for tensor in padded]
    found = pooled([[tokens[place] for tokens in split] for place in range(2)], padding)
    for theirs in found:
        same(theirs["cond"], whole(real))


@pytest.mark.usefixtures("_all_entries")
def test_padding_is_not_measured_by_one_process_either() -> None:
    real = residuals(9)
    calibrator = PooledCalibrator(None, 3)
    measured(calibrator, [torch.cat([tensor, torch.ones(2, 3, 8)], 1) for tensor in real])
    same(calibrator.finish()["cond"], whole(real))


def test_a_residual_with_nan_in_one_part_is_told_on_all() -> None:
    parts = residuals()
    parts[2][0, 0, 0] = torch.nan
    split = [tensor.chunk(2, 1) for tensor in parts]
    with pytest.raises(CalibrationError, match=r"cond at evaluation 3 .* held NaN or Inf"):
        pooled([[tokens[place] for tokens in split] for place in range(2)])


def test_branches_of_several_processes_are_put_together() -> None:
    group = peers(2)

    def work(one: Peers) -> dict[str, Measurement]:
        one.agree({})
        calibrator = PooledCalibrator(one)
        curve = "cond" if one is group[0] else "uncond"
        for step, part in enumerate(residuals()):
            calibrator.add("calls", (curve,), 1 - step / 10, (part,))
        return calibrator.finish()

    assert [set(found) for found in each(group, work)] == [{"cond", "uncond"}] * 2


def test_other_noise_levels_in_one_process_are_an_error_on_all() -> None:
    group = peers(2)

    def work(one: Peers) -> dict[str, Measurement]:
        one.agree({})
        calibrator = PooledCalibrator(one)
        for step, part in enumerate(residuals()):
            calibrator.add("calls", ("cond",), 1 - step / (10 + group.index(one)), (part,))
        return calibrator.finish()

    for error in each(group, work):
        assert "measured at different noise levels" in str(error)
