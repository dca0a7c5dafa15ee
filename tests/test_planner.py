"""Planned schedules against every other schedule."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magcache.curves.gram import best_weights
from magcache.curves.magnitude import shifted_sigmas
from magcache.decide.search import (
    LONGEST_GAP,
    PREMIUM,
    Costs,
    best_schedule,
    costs_of,
    expected_error,
    guidance_shares,
    hedged_schedule,
    remains,
)
from tests.calibrations import calibration, random_gram


def costs(steps: int, seed: int = 0, **options: object) -> Costs:
    return costs_of({"cond": random_gram(steps, seed)}, shifted_sigmas(steps), **options)  # type: ignore[arg-type]


def all_schedules(steps: int, computed: int) -> list[list[bool]]:
    """Every schedule that computes the first evaluation and so many in all."""
    chosen = itertools.combinations(range(1, steps), computed - 1)
    return [[place in {0, *places} for place in range(steps)] for places in chosen]


@settings(max_examples=30, deadline=None)
@given(steps=st.integers(2, 9), seed=st.integers(0, 1000), data=st.data())
def test_no_schedule_of_equal_cost_is_better(steps: int, seed: int, data: st.DataObject) -> None:
    computed = data.draw(st.integers(1, steps))
    own = costs(steps, seed)
    found = best_schedule(own, computed)
    best = min(expected_error(own, other) for other in all_schedules(steps, computed))
    assert sum(found) <= computed and found[0]
    assert expected_error(own, found) == pytest.approx(best)


@settings(max_examples=30, deadline=None)
@given(steps=st.integers(2, 14), seed=st.integers(0, 1000), data=st.data())
def test_a_hedge_costs_little_and_no_evaluation(steps: int, seed: int, data: st.DataObject) -> None:
    computed = data.draw(st.integers(1, steps))
    own = costs(steps, seed)
    best, hedged = best_schedule(own, computed), hedged_schedule(own, computed)
    assert sum(hedged) <= max(computed, sum(best)) and hedged[0]
    assert expected_error(own, hedged) <= (1 + PREMIUM) * expected_error(own, best) + 1e-12
    if hedged != best:
        assert all(hedged[:3])


def test_a_hedge_is_the_best_schedule_that_computes_the_first_three() -> None:
    first_gap = np.full((8, 6, 7), 0.01)  # each skipped evaluation costs the same
    first_gap[:, np.arange(6), np.arange(6) + 1] = 0
    first_gap[:, 0, 2] = 0.0099  # but the first is a little cheaper to skip
    own = Costs(np.zeros((8, 6, 6)), first_gap, np.array([False] + [True] * 5))
    assert not best_schedule(own, 5)[1]
    assert hedged_schedule(own, 5)[:3] == [True] * 3
    first_gap[:, 0, 2] = 0.005
    assert not hedged_schedule(own, 5)[1]


def test_the_cost_of_a_schedule_by_hand() -> None:
    gaps = np.full((4, 5, 6), np.inf)
    gaps[0, 0, 3], gaps[3, 3, 5] = 0.8**2, 0.4**2
    own = Costs(np.zeros((4, 5, 5)), gaps, np.array([False] + [True] * 4))
    schedule = [True, False, False, True, False]
    assert expected_error(own, schedule) == pytest.approx(math.sqrt(0.8**2 + 0.4**2))


def test_errors_are_those_of_the_prediction_from_two() -> None:
    gram = random_gram(8, 3)
    at = shifted_sigmas(8)
    errors = costs_of({"cond": gram}, at).errors
    block = gram.between(np.array([at[2], at[4], at[7]]))
    assert errors[2, 4, 7] == pytest.approx(best_weights(block)[1])
    assert errors[0, 4, 7] == pytest.approx(best_weights(block[1:, 1:])[1])


def test_from_one_residual_where_only_one_is_kept() -> None:
    errors = costs(8, keep=1).errors
    assert errors[2, 4, 7] == errors[0, 4, 7] > costs(8).errors[2, 4, 7]


def test_what_may_not_be_skipped_is_computed() -> None:
    allowed = [place >= 4 for place in range(12)]
    found = best_schedule(costs(12, may_skip=allowed), 6)
    assert found[:4] == [True] * 4 and sum(found) == 6


def test_the_budget_grows_where_it_is_too_small() -> None:
    allowed = [place >= 6 for place in range(12)]
    assert sum(best_schedule(costs(12, may_skip=allowed), 2)) == 6
    # 30 evaluations with at most LONGEST_GAP skipped in a row.
    assert sum(best_schedule(costs(30), 1)) == math.ceil(30 / (LONGEST_GAP + 1))


def test_an_evaluation_at_the_same_noise_level_weighs_nothing() -> None:
    # Heun evaluates each σ twice.
    sigmas = [1.0, 0.5, 0.5, 0.0]
    gram = calibration(10).grams["cond"]
    own = costs_of({"cond": gram}, sigmas)
    assert own.gaps[0, 0, 2] == 0 < own.gaps[0, 0, 3] and own.errors[0, 1, 2] < 1e-3


def test_nothing_mends_the_last_error_of_an_image() -> None:
    at = shifted_sigmas(10)
    gram = {"cond": calibration(10).grams["cond"]}
    whole, part = costs_of(gram, at), costs_of(gram, at[:5], end=at[5])
    # What the last evaluation adds: its error over its step, and of a part what remains of that.
    assert whole.gaps[1, 8, 10] == pytest.approx((at[9] * whole.errors[1, 8, 9]) ** 2)
    weight = 0.1 * float(remains(np.array([at[4]]))[0])
    assert part.gaps[1, 3, 5] == pytest.approx((weight * part.errors[1, 3, 4]) ** 2)


def test_a_members_errors_of_a_gap_add_up_as_vectors() -> None:
    gram = random_gram(6, 1)
    at = np.array(shifted_sigmas(6))
    steps = (at - np.append(at[1:], 0)) * remains(at)
    matrix = gram.between(at)
    used = np.zeros((2, 6))
    for row, place in enumerate((3, 4)):
        near = [1, 2, place]
        used[row, [1, 2]] = -best_weights(matrix[np.ix_(near, near)])[0]
        used[row, place] = 1
        used[row] *= steps[place] / np.sqrt(matrix[place, place])
    moved = used.sum(0)
    known = {"cond": gram}
    found = costs_of(known, at, members=[known]).gaps[1, 2, 5]
    assert found == pytest.approx(moved @ matrix @ moved)
    assert found < costs_of(known, at).gaps[1, 2, 5]


def test_beyond_a_fresh_evaluation_nothing_older_is_used() -> None:
    own, free = costs(8, fresh=[4]), costs(8)
    assert (
        own.errors[2, 5, 6] == free.errors[0, 5, 6] and own.errors[1, 5, 6] == free.errors[1, 5, 6]
    )
    assert np.isinf(own.gaps[1, 3, 5:]).all()


def test_guidance_weighs_the_branches() -> None:
    # e = 3·c - 2·u: squares 9 and 4.
    assert guidance_shares(["cond", "uncond"], 3.0) == {
        "cond": pytest.approx(9 / 13),
        "uncond": pytest.approx(4 / 13),
    }
    assert guidance_shares(["cond", "uncond"], 1.0) == {"cond": 1.0, "uncond": 0.0}
    assert guidance_shares(["cond", "uncond"], 0.0) == {"cond": 0.0, "uncond": 1.0}


def test_a_variance_exploding_level_is_weighed_as_its_flow_matching_one() -> None:
    assert remains(np.array([4.0, 1.0]))[0] == pytest.approx(remains(np.array([0.8, 0.5]))[0])
