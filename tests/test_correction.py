"""Online correction: a run's own errors beside the expected ones."""

import math
from unittest.mock import patch

import pytest
import torch

from magcache.calibrate.observer import Observer
from magcache.curves.magnitude import Trajectory, shifted_sigmas
from magcache.decide import Course, Reason, Target, nothing_held
from magcache.decide.by_plan import PlanDecider
from magcache.decide.correction import Correction
from magcache.run import Run
from tests.calibrations import calibration, random_gram
from tests.toys import CPU, Toy, tokens, toy_stack

GRAMS = {"cond": random_gram(50, seed=1)}
SIGMAS = shifted_sigmas(20)


def decider(**target: float) -> PlanDecider:
    return PlanDecider(Target(**target), Course.of_steps(Trajectory(SIGMAS)), GRAMS)


def schedule(own: PlanDecider, found: float) -> str:
    """A run whose errors are `found` times the expected, from the fifth evaluation on."""
    symbols, held = "", nothing_held(GRAMS, own.keep)
    for step, sigma in enumerate(SIGMAS):
        decision = own.decide(sigma, step, held)
        held, skipped = decision.leaves(held, sigma), decision.reason is Reason.SKIPPED
        symbols += "." if skipped else "#"
        if skipped and step >= 4:
            own.observe(0.1, 0.1 * found)
    return symbols


class Told:
    """Predicts with given weights, and notes what it is told."""

    def __init__(self) -> None:
        self.weights: list[float] | None = None
        self.errors: list[tuple[float, float]] = []

    def predict(self, *_: object) -> tuple[list[float], float]:
        assert self.weights is not None
        return self.weights, 0.3

    def observe(self, expected: float, found: float) -> None:
        self.errors.append((expected, found))


def residual(value: float, size: int = 600) -> tuple[torch.Tensor]:
    return (torch.full((1, size, 4), value),)


@pytest.mark.parametrize(("found", "factor"), [(0.1, 1.0), (0.6, 3.0), (0.01, 1 / 3)])
def test_the_factor_tends_to_that_of_the_errors_within_a_third_and_three(
    found: float, factor: float
) -> None:
    correction = Correction()
    for _ in range(200):
        correction.add(0.1, found)
    assert correction.factor == pytest.approx(factor, rel=0.02)


def test_it_is_the_geometric_mean_of_the_comparisons() -> None:
    correction = Correction()
    correction.add(0.1, 0.2)
    assert correction.factor == pytest.approx(2)
    correction.add(0.1, 0.05)
    assert correction.factor == pytest.approx(1)


@pytest.mark.parametrize("found", [math.nan, math.inf, 0.0])
def test_an_error_without_a_number_is_passed_over(found: float) -> None:
    correction = Correction()
    correction.add(0.1, found)
    assert correction.factor == 1


def test_the_found_error_is_that_of_the_prediction() -> None:
    told = Told()
    observer = Observer(told)
    for sigma, value, cached in ((1.0, 1.0, []), (0.9, 2.0, [1.0]), (0.8, 4.0, [1.0, 0.9])):
        told.weights = [2.5] if len(cached) == 1 else [-1.0, 2.0]
        observer.see("x", sigma, residual(value), cached, ["cond"])
    observer.tell()
    # 2.5·1 for 2, and 2·2 - 1 for 4: both off by a quarter.
    assert told.errors == [(0.3, pytest.approx(0.25)), (0.3, pytest.approx(0.25))]
    observer.tell()
    assert len(told.errors) == 2


def test_a_residual_that_was_never_seen_is_not_compared_with() -> None:
    told = Told()
    observer = Observer(told)
    observer.see("x", 0.5, residual(1.0), [0.9], ["cond"])  # Told has no weights to predict with
    observer.tell()
    assert told.errors == []


def test_a_plan_for_a_speedup_stays_as_it_is() -> None:
    plain = schedule(decider(speedup=2), 1.0)
    for found in (0.2, 5.0):
        own = decider(speedup=2)
        assert schedule(own, found) == plain
        assert not own.notes


def test_an_error_that_is_asked_for_bounds_the_run_s_own() -> None:
    counts = [schedule(decider(error=0.05), found).count("#") for found in (0.5, 1.0, 2.0)]
    assert counts == sorted(counts) and counts[0] < counts[-1]


@pytest.mark.parametrize("target", [Target(error=0.02), Target(2)])
def test_a_run_s_own_errors_count_where_an_error_is_asked_for(target: Target) -> None:
    found = skipped(target)
    with patch.object(Correction, "add"):
        uncorrected = skipped(target)
    assert (found < uncorrected) is (target.error is not None)


def skipped(target: Target) -> int:
    """How much a run skips whose residuals are less smooth than the calibration's."""
    sigmas, grams = shifted_sigmas(40), {"cond": calibration(50).grams["cond"]}
    own = PlanDecider(target, Course.of_steps(Trajectory(sigmas)), grams)
    model, values = Toy(), torch.randn(40, generator=torch.Generator().manual_seed(0))
    run = Run(own, toy_stack(model))
    for step, sigma in enumerate(sigmas):
        run.begin(sigma, step)
        run.call("cond", "cond", CPU, lambda step=step: model(tokens(float(values[step]))))
    return run.skipped
