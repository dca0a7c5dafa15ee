"""The prior: what models return goes over the flow's level much alike."""

import numpy as np
import pytest

from magcache.curves import Trajectory, prior, shifted_sigmas
from magcache.decide import Course, Target, best_schedule, costs_of, decider_for

MEMBERS = prior.members()


@pytest.mark.parametrize("name", MEMBERS)
def test_each_member_has_both_signals_over_the_whole_flow(name: str) -> None:
    assert set(MEMBERS[name]) == {"mean", "difference"}
    for gram in MEMBERS[name].values():
        assert gram.norms.positions[0] == 1 and gram.norms.positions[-1] < 0.05
        matrix = gram.between(np.array(shifted_sigmas(28, 3.0)))
        assert np.linalg.eigvalsh(matrix).min() > -1e-6 * np.trace(matrix)


def test_the_mean_lies_between_its_members() -> None:
    members = list(MEMBERS.values())
    mean = prior.mean(members)["mean"].correlations
    each = np.stack([member["mean"].correlations for member in members])
    assert (each.min(0) - 1e-9 <= mean).all() and (mean <= each.max(0) + 1e-9).all()


def test_models_are_alike() -> None:
    """The mean of the branches is predicted from the last two with errors of the same size."""
    levels = shifted_sigmas(28)
    errors = [
        costs_of({"mean": m["mean"]}, levels).errors[2, 10:20, 10:24] for m in MEMBERS.values()
    ]
    there = np.stack([error[error > 0] for error in errors])
    assert (there.max(0) / there.min(0) < 10).all()


@pytest.mark.parametrize(
    ("steps", "computed", "draft"), [(8, 6, 4), (7, 6, 3), (6, 6, 3), (5, 5, 3), (4, 4, 3)]
)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_in_few_steps_no_less_is_computed_than_is_better_than_plain_steps(
    steps: int, computed: int, draft: int, shift: float
) -> None:
    course = Course.of_steps(Trajectory(shifted_sigmas(steps, shift)))
    plan = str(decider_for(Target(2), course).schedule())
    assert plan.count("#") == computed and plan.endswith("##")
    own = decider_for(Target(2, draft=True), course)
    plan = str(own.schedule())
    assert plan.count("#") == max(draft, steps // 2) and plan.endswith("##")
    assert any("a draft: it may differ" in note for note in own.notes)


def test_the_parts_of_a_split_run_of_eight_steps_are_planned_as_the_whole() -> None:
    levels = shifted_sigmas(8, 5.0)
    whole = Trajectory(levels)
    first = decider_for(Target(2), Course.of_steps(whole, levels[:4], end=levels[4]))
    second = decider_for(Target(2), Course.of_steps(whole, levels[4:]))
    assert str(first.schedule()).count("#") == str(second.schedule()).count("#") == 3
    assert str(second.schedule()).endswith("##")


@pytest.mark.parametrize("steps", [9, 20, 50])
def test_a_plan_of_the_prior_begins_densely_and_is_as_fast_as_asked(steps: int) -> None:
    course = Course.of_steps(Trajectory(tuple(shifted_sigmas(steps))))
    decider = decider_for(Target(1.5), course, guidance=3.0)
    schedule = str(decider.schedule())
    assert schedule.count("#") == int(steps / 1.5)
    half = steps // 2
    assert schedule[:half].count("#") >= schedule[half:].count("#")


@pytest.mark.parametrize(("steps", "shift"), [(25, 3.0), (28, 3.0), (50, 3.0), (28, 1.0)])
def test_half_the_work_begins_with_three_computed(steps: int, shift: float) -> None:
    course = Course.of_steps(Trajectory(tuple(shifted_sigmas(steps, shift))))
    schedule = str(decider_for(Target(2.0), course, guidance=3.0).schedule())
    assert schedule.startswith("###") and schedule.count("#") == steps // 2


def test_a_plan_for_several_costs_each_no_more_than_a_plan_for_another() -> None:
    members, levels = list(MEMBERS.values()), shifted_sigmas(28)
    mean = prior.mean(members)
    together = costs_of(mean, levels, guidance=3.0, members=members)
    for member in members:
        alone = costs_of(mean, levels, guidance=3.0, members=[member])
        other = best_schedule(alone, 10)
        assert _cost(together, best_schedule(together, 10)) <= _cost(together, other)


def _cost(costs: object, schedule: list[bool]) -> float:
    from magcache.decide.search import Costs, expected_error

    assert isinstance(costs, Costs)
    return expected_error(costs, schedule) * (1 - 1e-12)
