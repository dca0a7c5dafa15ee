"""What holds for every decider: one function makes it, and it looks ahead without effects."""

from collections.abc import Callable

import pytest

from magcache.curves.magnitude import MagnitudeCurve, Trajectory, shifted_sigmas
from magcache.decide import (
    Course,
    Decider,
    Decision,
    Held,
    Reason,
    Rule,
    Target,
    Window,
    decider_for,
    nothing_held,
)
from tests.calibrations import random_gram

STEPS = 20
GRAMS = {"cond": random_gram(50, seed=1), "uncond": random_gram(50, seed=2)}
CURVES = {
    "cond": MagnitudeCurve.from_ratios([1.0] + [0.97] * 9, [1 - i / 10 for i in range(10)]),
    "uncond": MagnitudeCurve.from_ratios([1.0] + [0.98] * 9, [1 - i / 10 for i in range(10)]),
}
COURSE = Course.of_steps(Trajectory(shifted_sigmas(STEPS)))
ASKED = {
    "rule": lambda: decider_for(Rule(0.2, 3, 0.2), COURSE, CURVES),
    "rule, predicted": lambda: decider_for(Rule(0.2, 3, 0.2), COURSE, CURVES, GRAMS, 3.0),
    "speed-up": lambda: decider_for(Target(speedup=2), COURSE, CURVES, GRAMS, 3.0),
    "error": lambda: decider_for(Target(error=0.05), COURSE, CURVES, GRAMS, 3.0),
    "nothing": lambda: decider_for(None, COURSE),
}
Made = Callable[[], Decider]
each_decider = pytest.mark.parametrize("made", ASKED.values(), ids=ASKED.keys())


def run(own: Decider, evaluations: slice = slice(None), held: object = None) -> list[Decision]:
    """Evaluation by evaluation, with a cache that holds what was computed."""
    found, holding = [], held or nothing_held(own.curves, own.keep)
    for sigma, step in own.course.evaluations[evaluations]:
        found.append(own.decide(sigma, step, holding))
        holding = found[-1].leaves(holding, sigma)
    return found


@each_decider
def test_a_schedule_shown_beforehand_is_the_one_that_is_decided(made: Made) -> None:
    own = made()
    shown = own.schedule()
    assert shown == own.schedule(), "looking ahead has no effect"
    assert shown.reasons == tuple(decision.reason for decision in run(own))
    assert shown.notes == tuple(own.notes) and shown.sigmas == COURSE.sigmas


@each_decider
@pytest.mark.parametrize("begun", [1, 5, 12])
def test_in_mid_run_it_shows_what_is_left(made: Made, begun: int) -> None:
    own, other = made(), made()
    whole = run(other)
    holding = nothing_held(own.curves, own.keep)
    for sigma, step in COURSE.evaluations[:begun]:
        holding = own.decide(sigma, step, holding).leaves(holding, sigma)
    left = own.schedule(COURSE.evaluations[begun:], holding)
    assert left.reasons == tuple(decision.reason for decision in whole[begun:])
    assert left.reasons == tuple(d.reason for d in run(own, slice(begun, None), holding))


@each_decider
def test_weights_are_given_for_what_is_skipped_and_for_what_is_held(made: Made) -> None:
    own = made()
    holding = nothing_held(own.curves, own.keep)
    for sigma, step in COURSE.evaluations:
        decision = own.decide(sigma, step, holding)
        assert bool(decision.weights) is (decision.reason is Reason.SKIPPED)
        for branch, weights in decision.weights.items():
            assert len(weights) == len(holding[branch].sigmas)
            assert list(weights) == own.predict([str(branch)], sigma, holding[branch].sigmas)[0]
        assert (decision.error is not None) is (bool(decision.weights) and own.predicts)
        holding = decision.leaves(holding, sigma)


def test_a_branch_of_which_nothing_is_held_gets_no_weights() -> None:
    own = ASKED["rule"]()
    own.decide(1.0, 0, nothing_held(CURVES, 1))
    held = {"cond": Held(("cond",), (0.5,), 1), "new": Held(("cond",), (), 1)}
    decision = own.decide(0.5, 10, held)
    assert decision.reason is Reason.SKIPPED and set(decision.weights) == {"cond"}


@pytest.mark.parametrize("name", ["rule", "speed-up", "error"])
def test_where_nothing_is_held_any_more_it_is_computed(name: str) -> None:
    own = ASKED[name]()
    reasons = [own.decide(s, step, nothing_held(GRAMS, 2)).reason for s, step in COURSE.evaluations]
    assert reasons[0] is Reason.FIRST and Reason.SKIPPED not in reasons
    assert Reason.NO_RESIDUAL in reasons


def test_the_rule_needs_magnitude_curves() -> None:
    with pytest.raises(ValueError, match="the rule needs magnitude curves"):
        decider_for(Rule(0.1, 2, 0.2), COURSE, {})


@pytest.mark.parametrize(
    "asked", [Rule(1, 9, 0, Window(5, 8)), Target(error=0.5, window=Window(5, 8))]
)
def test_a_window_bounds_every_kind(asked: Rule | Target) -> None:
    reasons = decider_for(asked, COURSE, CURVES, GRAMS).schedule().reasons
    assert Reason.SKIPPED in reasons[5:9]
    assert Reason.SKIPPED not in (*reasons[:5], *reasons[9:])
