"""Deciding by a plan or by the expected error."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from magcache.curves.gram import GramCurve, best_weights
from magcache.curves.magnitude import Trajectory, shifted_sigmas
from magcache.decide import Course, Reason, Target, Window, nothing_held
from magcache.decide.by_plan import PlanDecider, fewest_worth
from magcache.decide.decider import OUTSIDE
from magcache.decide.search import best_schedule, costs_of
from magcache.decide.window import EVERY_STEP
from magcache.run import Run
from tests.calibrations import calibration, random_gram
from tests.toys import CPU, Toy, block_calls, tokens, toy_stack

GRAMS = {"cond": calibration(50).grams["cond"], "uncond": calibration(50).grams["cond"]}


def decider(
    steps: int = 20,
    sigmas: Any = None,
    grams: Mapping[str, GramCurve] = GRAMS,
    window: Window = EVERY_STEP,
    **target: Any,
) -> PlanDecider:
    course = Course.of_steps(Trajectory(shifted_sigmas(steps)), sigmas)
    course = replace(course, steps=steps)
    return PlanDecider(Target(window=window, **target), course, grams, guidance=3.0)


def reasons(own: PlanDecider, evaluations: Any = None) -> list[Reason]:
    """Evaluation by evaluation, with a cache that holds what was computed."""
    found, holding = [], nothing_held(GRAMS, own.keep)
    for sigma, step in own.course.evaluations if evaluations is None else evaluations:
        decision = own.decide(sigma, step, holding)
        holding = decision.leaves(holding, sigma)
        found.append(decision.reason)
    return found


def symbols(found: list[Reason]) -> str:
    return "".join("." if reason is Reason.SKIPPED else "#" for reason in found)


@pytest.mark.parametrize("speedup", [1.25, 1.5, 2, 2.5, 4])
def test_a_speedup_is_the_best_schedule_of_that_many(speedup: float) -> None:
    found = symbols(reasons(decider(20, speedup=speedup)))
    assert found.count("#") == int(20 / speedup)
    best = best_schedule(costs_of(GRAMS, shifted_sigmas(20), guidance=3.0), int(20 / speedup))
    assert found == "".join("#" if computed else "." for computed in best)


def test_reasons_tell_what_was_planned() -> None:
    found = reasons(decider(20, speedup=2))
    assert found[0] is Reason.FIRST
    assert set(found[1:]) == {Reason.PLANNED, Reason.SKIPPED}


@pytest.mark.parametrize("target", [{"speedup": 1}, {"error": 0}])
def test_nothing_is_skipped_where_nothing_is_asked(target: dict[str, Any]) -> None:
    own = decider(**target)
    assert own.skips_nothing and set(reasons(own)) == {Reason.FIRST, Reason.OFF}


@pytest.mark.parametrize(("steps", "speedup"), [(8, 2), (20, 1.05)])
def test_everything_is_computed_where_there_is_little_to_gain(steps: int, speedup: float) -> None:
    own = decider(steps, speedup=speedup)
    assert symbols(reasons(own)) == "#" * steps
    assert any("little to gain" in note for note in own.notes)


def test_steps_outside_the_window_are_computed_and_planned_with() -> None:
    own = decider(20, speedup=1.5, window=Window(4, -3))
    found = symbols(reasons(own))
    assert found[:4] == "####" and found[-2:] == "##" and found.count("#") == 13


def test_a_speedup_out_of_reach_says_what_the_best_is() -> None:
    own = decider(20, speedup=4, window=Window(10))
    assert symbols(reasons(own)).count("#") == 10
    assert own.notes == ["a speed-up of 4 cannot be reached here; the best is 2.00"]


def test_an_error_bounds_every_skipped_evaluation() -> None:
    own = decider(20, error=0.01, keep=2)
    at, computed = shifted_sigmas(20), [1.0]
    found = reasons(own)
    for sigma, reason in itertools.islice(zip(at, found, strict=True), 1, None):
        gram = GRAMS["cond"].between(np.array([*computed[-2:], sigma]))
        assert (best_weights(gram)[1] <= 0.01) == (reason is Reason.SKIPPED)
        computed += [] if reason is Reason.SKIPPED else [sigma]
    assert 2 <= found.count(Reason.SKIPPED) <= 18


def test_a_larger_error_skips_more() -> None:
    counts = [symbols(reasons(decider(30, error=e))).count("#") for e in (0.001, 0.01, 0.1)]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


def test_a_sampler_off_the_plan_is_bounded_by_the_plans_own_error() -> None:
    # Two evaluations a step, the second between two of the known σ: as with dpm_2.
    at = shifted_sigmas(20)
    between = [(a + b) / 2 for a, b in itertools.pairwise([*at, 0.0])]
    own = decider(20, speedup=2, grams={"cond": random_gram(50, seed=1)})
    evaluated = [sigma for pair in zip(at, between, strict=True) for sigma in pair]
    found = reasons(own, [(sigma, place // 2) for place, sigma in enumerate(evaluated)])
    assert Reason.ERROR in found
    assert 0.35 < found.count(Reason.SKIPPED) / len(found) < 0.65


def test_a_sampler_that_asks_twice_at_a_level_is_as_fast_as_asked_too() -> None:
    # As with Heun's method.
    at = shifted_sigmas(20)
    twice = [(sigma, place) for place, sigma in enumerate(at) for _ in (1, 2)][1:]
    own = decider(20, speedup=2)
    found = reasons(own, twice)
    assert 0.35 < found.count(Reason.SKIPPED) / len(found) < 0.65


def test_noise_levels_outside_the_calibration_are_noticed() -> None:
    inside, outside = decider(20, speedup=2), decider(20, [2.0, *shifted_sigmas(19)], speedup=2)
    for own in (inside, outside):
        reasons(own)
    assert OUTSIDE not in inside.notes
    outside = decider(2, speedup=2)
    outside.decide(1.0, 0, nothing_held(GRAMS, 2))
    assert OUTSIDE not in outside.notes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give either a speedup or an error"),
        ({"speedup": 2, "error": 0.1}, "give either a speedup or an error"),
        ({"speedup": 0.5}, "speedup must be between 1 and 10, got 0.5"),
        ({"speedup": float("nan")}, "speedup must be between 1 and 10, got nan"),
        ({"error": 1.0}, "error must be at least 0 and below 1, got 1.0"),
        ({"speedup": 2, "keep": 4}, "keep must be 1, 2 or 3, got 4"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Target(**settings)


def test_a_run_predicts_from_its_cached_residuals() -> None:
    # The toy's residual is 7x. Its direction stays and its norm follows the calibration's
    # exp(σ), so the prediction, a scaled reuse, is exact.
    model, at = Toy(), shifted_sigmas(20)
    grams = {"cond": calibration(50, branches=_straight()).grams["cond"]}
    run = Run(decider(20, speedup=2, grams=grams), toy_stack(model))
    for step, sigma in enumerate(at):
        value = float(np.exp(sigma))
        run.begin(sigma, step, last=step == 19)
        output = run.call("cond", "cond", CPU, lambda value=value: model(tokens(value)))
        assert output[0, 0, 0] == pytest.approx(80 * value, rel=1e-3)
    assert run.skipped == 10 and block_calls(model) == 3 * 10


def test_a_run_keeps_as_many_residuals_as_are_predicted_from() -> None:
    model, at = Toy(), shifted_sigmas(20)
    for keep in (1, 2, 3):
        run = Run(decider(20, speedup=2, keep=keep), toy_stack(model))
        for step, sigma in enumerate(at):
            run.begin(sigma, step)
            run.call("cond", "cond", CPU, lambda: model(tokens()))
        assert run.cache.peak_bytes == keep * 6 * 4  # 2 tokens of 3 float32 channels


def test_weights_of_two_branches_in_one_batch_are_their_common_best() -> None:
    own = decider(20, speedup=2)
    (both, _), (one, _) = (own.predict(b, 0.5, [0.9, 0.7]) for b in (["uncond", "cond"], ["cond"]))
    assert both == pytest.approx(one)  # the curves are equal


def _straight() -> dict[str, Any]:
    from tests.calibrations import measurement

    return {"cond": measurement(shifted_sigmas(50), turn=0.0)}


@pytest.mark.parametrize(("steps", "fewest", "reached"), [(10, 6, "1.67"), (14, 5, "2.80")])
def test_fewer_computed_evaluations_than_are_worth_it_are_not_planned(
    steps: int, fewest: int, reached: str
) -> None:
    own = decider(steps, speedup=4)
    assert symbols(reasons(own)).count("#") == fewest == fewest_worth(steps)
    assert own.notes == [
        f"a speed-up of 4 computes fewer than {fewest} evaluations, "
        f"no better than as many plain steps; the best is {reached}"
    ]
