"""Schedules of whole, partial, short and second-order runs."""

import pytest

from magcache.curves.magnitude import MagnitudeCurve, Trajectory
from magcache.decide import Reason, Rule, Schedule, Window
from magcache.decide.decider import OUTSIDE
from tests.toys import decider_of, even, flat_curve, held, scheduled

FLAT = {"cond": flat_curve()}
NEVER = 99  # a max_skip that is never reached


def schedule(rule: Rule, steps: int, part: slice = slice(None)) -> str:
    """On an even trajectory with ratios of 1, the whole of it or a part."""
    trajectory = even(steps)
    return str(scheduled(rule, FLAT, trajectory, trajectory.sigmas[part]))


@pytest.mark.parametrize(
    ("steps", "retention", "computed"),
    [(50, 0.2, 10), (40, 0.2, 8), (26, 0.25, 6), (28, 0.1, 2), (30, 0.1, 3), (50, 0.29, 14)],
)
def test_retention_on_a_whole_run_is_the_published_index_rule(
    steps: int, retention: float, computed: int
) -> None:
    wanted = "#" * computed + "." * (steps - computed)
    assert schedule(Rule(1, NEVER, retention), steps) == wanted


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_the_first_evaluation_is_computed_when_retention_protects_none(steps: int) -> None:
    assert int(steps * 0.2) == 0
    assert schedule(Rule(1, NEVER, 0.2), steps) == "#" + "." * (steps - 1)


def test_retention_on_a_second_half_protects_nothing() -> None:
    assert schedule(Rule(1, NEVER, 0.2), 10, slice(5, None)) == "#...."


def test_retention_on_a_first_half_is_a_share_of_the_whole() -> None:
    assert schedule(Rule(1, NEVER, 0.2), 20, slice(0, 10)) == "####......"


def test_retention_of_an_image_to_image_run_is_what_is_left_of_it() -> None:
    # Of 20 steps the first 4 are protected; a run from step 2 on has 2 of them.
    assert schedule(Rule(1, NEVER, 0.2), 20, slice(2, None)) == "##" + "." * 16


def test_retention_goes_by_sigma_and_not_by_the_step() -> None:
    # Ten steps from σ 0.9 down, off the trajectory's grid: 0.2 of it ends at σ 0.8.
    sigmas = tuple(0.9 - 0.045 * i for i in range(10))  # 0.9, 0.855, 0.81, 0.765, ...
    assert str(scheduled(Rule(1, NEVER, 0.2), FLAT, even(10), sigmas)) == "###......."


def test_retention_forgives_the_rounding_of_float32() -> None:
    sigmas = tuple(s + 4e-8 for s in even(50).sigmas)
    assert str(scheduled(Rule(1, NEVER, 0.2), FLAT, even(50), sigmas)) == "#" * 10 + "." * 40


@pytest.mark.parametrize("steps", [28, 20, 14, 50])
def test_refresh_is_the_first_step_at_its_share_of_the_trajectory(steps: int) -> None:
    rule = Rule(1, NEVER, 0, refresh=11 / 28)
    step = -(-11 * steps // 28)
    assert schedule(rule, steps) == "#" + "." * (step - 1) + "#" + "." * (steps - step - 1)


def test_refresh_restarts_the_accumulators() -> None:
    # K 3: the refresh at step 3 of 10 falls after two skipped, and three more follow it.
    assert schedule(Rule(1, 3, 0, refresh=0.3), 10) == "#..#...#.."
    assert schedule(Rule(1, 3, 0), 10) == "#...#...#."


def test_refresh_does_not_fall_into_a_part_that_begins_after_it() -> None:
    assert schedule(Rule(1, NEVER, 0, refresh=0.3), 10, slice(5, None)) == "#...."


def test_refresh_is_computed_once_where_a_sigma_repeats() -> None:
    sigmas = (1.0, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2)
    trajectory = Trajectory(sigmas)
    rule = Rule(1, NEVER, 0, refresh=0.4)
    assert str(scheduled(rule, FLAT, trajectory, sigmas)) == "#..#....."


def test_start_and_end_step_are_the_runs_own() -> None:
    rule = Rule(1, NEVER, 0, Window(2, -2))
    assert schedule(rule, 8) == "##.....#"
    assert schedule(rule, 8, slice(3, None)) == "##..#"


def test_the_window_restarts_the_accumulators() -> None:
    # Skipped evaluations before the window would count towards K 2.
    assert schedule(Rule(1, 2, 0, Window(3)), 8) == "###..#.."


def test_a_step_of_two_evaluations_is_one_step() -> None:
    """The host tells the step; the decider does not count its own calls."""
    decider = decider_of(Rule(1, NEVER, 0, Window(1, 1)), FLAT, even(3))
    evaluations = [(1.0, 0), (0.667, 0), (0.667, 1), (0.333, 1), (0.333, 2)]
    reasons = [decider.decide(sigma, step, held(FLAT, 1.0)).reason for sigma, step in evaluations]
    assert reasons == [
        Reason.FIRST,
        Reason.WINDOW,
        Reason.SKIPPED,
        Reason.SKIPPED,
        Reason.WINDOW,
    ]


def test_a_repeated_sigma_costs_no_drift_but_counts_for_max_skip() -> None:
    # ‖r‖ falls to 3/4 from σ 1 to σ 0.5: drift .25 then .25 again, within .5.
    curve = {"cond": MagnitudeCurve.from_ratios([1, 0.75], [1, 0.5])}
    sigmas = (1.0, 0.5, 0.5)
    assert str(scheduled(Rule(0.51, 9, 0), curve, Trajectory(sigmas), sigmas)) == "#.."
    assert str(scheduled(Rule(0.49, 9, 0), curve, Trajectory(sigmas), sigmas)) == "#.#"
    assert str(scheduled(Rule(0.51, 1, 0), curve, Trajectory(sigmas), sigmas)) == "#.#"


@pytest.mark.parametrize(("steps", "wanted"), [(1, "#"), (2, "#.")])
def test_short_runs(steps: int, wanted: str) -> None:
    assert schedule(Rule(1, 2, 0), steps) == wanted


def test_the_ratio_reaches_from_the_previous_evaluation_computed_or_not() -> None:
    # ‖r‖ halves from 1 to 1/2 and again to 0; threshold .5 allows one halving.
    curve = {"cond": MagnitudeCurve.from_ratios([1, 0.5, 0.5], [1, 0.5, 0])}
    sigmas = (1.0, 0.5, 0.0)
    found = scheduled(Rule(0.5, 9, 0.5), curve, Trajectory(sigmas), sigmas)
    assert found.reasons == (Reason.FIRST, Reason.SKIPPED, Reason.THRESHOLD)


def test_a_branch_without_a_curve_follows_the_first() -> None:
    falling = MagnitudeCurve.from_ratios([1, 0.5], [1, 0])
    decider = decider_of(Rule(0.4, 9, 0), {"cond": falling, "uncond": flat_curve()}, even(2))
    decider.decide(1.0, 0, held(["ref"]))
    assert decider.decide(0.0, 1, held(["ref"], 1.0)).reason is Reason.THRESHOLD


def test_only_branches_that_take_part_decide() -> None:
    falling = MagnitudeCurve.from_ratios([1, 0.5], [1, 0])
    decider = decider_of(Rule(0.4, 9, 0), {"cond": flat_curve(), "uncond": falling}, even(2))
    decider.decide(1.0, 0, held(["cond"]))
    assert decider.decide(0.0, 1, held(["cond"], 1.0)).reason is Reason.SKIPPED


def test_a_computed_evaluation_told_afterwards_restarts_the_accumulators() -> None:
    decider = decider_of(Rule(1, 1, 0), FLAT, even(4))
    assert decider.decide(1.0, 0, held(FLAT, 1.0)).reason is Reason.FIRST
    assert decider.decide(0.75, 1, held(FLAT, 1.0)).reason is Reason.SKIPPED
    decider.computed()
    assert decider.decide(0.5, 2, held(FLAT, 1.0)).reason is Reason.SKIPPED
    assert decider.decide(0.25, 3, held(FLAT, 1.0)).reason is Reason.MAX_SKIP


def test_rule_that_skips_nothing_says_that_it_is_off() -> None:
    reasons = scheduled(Rule(0, 2, 0.2), FLAT, even(3)).reasons
    assert reasons == (Reason.FIRST, Reason.OFF, Reason.OFF)


@pytest.mark.parametrize(
    ("sigmas", "outside"),
    [((0.9, 0.5, 0.1), False), ((0.9, 0.5, 0.05), True), ((1.0, 0.5, 0.1), True)],
)
def test_noise_levels_outside_the_curve_are_noticed(
    sigmas: tuple[float, ...], outside: bool
) -> None:
    curve = MagnitudeCurve.from_ratios([1, 1], [0.9, 0.1])
    decider = decider_of(Rule(1, 9, 0), {"cond": curve}, Trajectory(sigmas))
    for step, sigma in enumerate(sigmas):
        decider.decide(sigma, step, held(["cond"], 1.0))
    assert (OUTSIDE in decider.notes) == outside


def test_a_curve_over_the_fraction_is_read_through_the_trajectory() -> None:
    # Steps at σ 1, .9, .75, .5 are fractions 0, 1/4, 1/2, 3/4 of the trajectory.
    curve = {"cond": MagnitudeCurve.from_ratios([1, 1, 0.5, 1])}
    found = scheduled(Rule(0.1, 9, 0), curve, Trajectory((1.0, 0.9, 0.75, 0.5)))
    assert found.reasons[1:] == (Reason.SKIPPED, Reason.THRESHOLD, Reason.SKIPPED)


def test_a_schedule_counts_and_draws() -> None:
    found = Schedule((1.0, 0.6, 0.3), (Reason.FIRST, Reason.SKIPPED, Reason.THRESHOLD))
    assert (str(found), found.computed, found.skipped) == ("#.#", 2, 1)


def test_speedup_of_a_schedule() -> None:
    found = Schedule((1.0, 0.7, 0.5, 0.2), (Reason.FIRST, *[Reason.SKIPPED] * 3))
    assert found.speedup() == 4
    assert found.speedup(skip_cost=1 / 3) == 2
    assert found.speedup(skip_cost=1) == 1
