"""Composing magnitude ratios over the noise level, and places on a trajectory."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from magcache.curves import presets
from magcache.curves.magnitude import (
    MagnitudeCurve,
    Trajectory,
    resampled_trajectory,
    shifted_sigmas,
)
from tests.calibrations import ratios_of, sigmas_of

RATIO = st.floats(0.3, 3.0)
SIGMA = st.floats(0.0, 1.0).map(lambda value: round(value, 4))
ANY_SIGMA = st.floats(-0.5, 1.5)


@st.composite
def curves(draw: st.DrawFn) -> MagnitudeCurve:
    """A curve over one to eight σ that fall by any steps."""
    sigmas = sorted(draw(st.sets(SIGMA, min_size=1, max_size=8)), reverse=True)
    ratios = draw(st.lists(RATIO, min_size=len(sigmas), max_size=len(sigmas)))
    return MagnitudeCurve.from_ratios(ratios, sigmas)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    sigmas = draw(st.sets(st.integers(1, 1000), min_size=1, max_size=12))
    return Trajectory(tuple(s / 1000 for s in sorted(sigmas, reverse=True)))


def halves() -> MagnitudeCurve:
    """‖r‖ = 1, 1/2, 1/8 at σ = 1, 1/2, 0."""
    return MagnitudeCurve.from_ratios([1, 0.5, 0.25], [1, 0.5, 0])


def ratio(curve: MagnitudeCurve, before: float, after: float) -> float:
    found = curve.ratio(before, after)
    assert found is not None
    return found


@given(curves(), ANY_SIGMA, ANY_SIGMA, ANY_SIGMA)
def test_ratios_compose(curve: MagnitudeCurve, a: float, b: float, c: float) -> None:
    direct = curve.log_norm(c) - curve.log_norm(a)
    assume(abs(direct) < 100 and abs(curve.log_norm(b)) < 100)
    composed = math.log(ratio(curve, a, b)) + math.log(ratio(curve, b, c))
    assert composed == pytest.approx(direct, abs=1e-9)


@given(curves(), st.lists(SIGMA, min_size=1, max_size=8))
def test_finer_steps_multiply_to_coarser_ones(curve: MagnitudeCurve, run: list[float]) -> None:
    """For any run: off the grid, rising as well as falling, with repeats, of one step."""
    assume(all(abs(curve.log_norm(sigma)) < 50 for sigma in run))
    found = curve.ratios(run)
    assert len(found) == len(run) and found[0] == 1.0
    product = math.prod(r for r in found if r is not None)
    assert product == pytest.approx(ratio(curve, run[0], run[-1]), rel=1e-9)


@given(curves())
def test_the_own_schedule_gives_the_list_back(curve: MagnitudeCurve) -> None:
    again = MagnitudeCurve.from_ratios(curve.ratios(curve.positions), curve.positions)  # type: ignore[arg-type]
    assert again.log_norms == pytest.approx(curve.log_norms, abs=1e-12)


@given(curves(), SIGMA)
def test_a_repeated_sigma_has_ratio_one(curve: MagnitudeCurve, sigma: float) -> None:
    assert curve.ratios([sigma, sigma]) == [1.0, 1.0]


def test_a_ratio_is_the_product_of_those_listed_between() -> None:
    assert halves().ratio(1, 0.5) == pytest.approx(0.5)
    assert halves().ratio(1, 0) == pytest.approx(0.125)
    assert halves().ratio(0, 1) == pytest.approx(8)


def test_the_logarithm_is_linear_between_two_sigmas() -> None:
    # Half-way from 1 to 1/2 is 1/√2; half-way from 1/2 to 1/8 is 1/4.
    assert halves().ratio(1, 0.75) == pytest.approx(math.sqrt(0.5))
    assert halves().ratio(1, 0.25) == pytest.approx(0.25)


def test_the_end_slopes_go_on() -> None:
    # ‖r‖ halves every half σ at the noisy end and falls to a quarter at the other.
    assert halves().ratio(1.5, 1) == pytest.approx(0.5)
    assert halves().ratio(0, -0.5) == pytest.approx(0.25)


def test_covers_the_measured_range_only() -> None:
    curve = MagnitudeCurve.from_ratios([1, 0.5], [0.9, 0.1])
    assert [curve.covers(s) for s in (0.91, 0.9, 0.5, 0.1, 0.09)] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_covers_forgives_the_rounding_of_float32() -> None:
    curve = MagnitudeCurve.from_ratios([1, 0.5], [0.9, 0.1])
    assert curve.covers(0.9 + 6e-8) and curve.covers(0.1 - 6e-8)


def test_one_known_sigma_gives_ratio_one_everywhere() -> None:
    assert MagnitudeCurve.from_ratios([1.0], [0.5]).ratios([1, 0.5, 0]) == [1, 1, 1]


def test_the_first_entry_of_a_list_is_ignored() -> None:
    sigmas = [1, 0.5, 0]
    assert MagnitudeCurve.from_ratios([7, 0.5, 0.25], sigmas) == halves()


@pytest.mark.parametrize(("run", "wanted"), [([], []), ([0.3], [1]), ([1, 0], [1, 0.125])])
def test_short_runs(run: list[float], wanted: list[float]) -> None:
    assert halves().ratios(run) == pytest.approx(wanted)


def test_a_list_without_sigmas_holds_over_the_fraction() -> None:
    curve = MagnitudeCurve.from_ratios([1, 0.5, 0.25, 0.5])
    assert curve.over == "fraction" and curve.positions == (0, 0.25, 0.5, 0.75)
    assert curve.ratios([0, 0.5, 0.75]) == pytest.approx([1, 0.125, 0.5])
    # Between 1/4 and 1/2 the logarithm is linear: half of a quarter.
    assert curve.ratio(0.25, 0.375) == pytest.approx(0.5)


def test_a_fraction_beyond_the_last_step_goes_on_and_is_not_covered() -> None:
    curve = MagnitudeCurve.from_ratios([1, 0.5, 0.25, 0.5])
    assert curve.ratio(0.75, 1) == pytest.approx(0.5)
    assert curve.covers(0.75) and not curve.covers(1)


def two_experts() -> MagnitudeCurve:
    """‖r‖ = 1, 1/2 for the first expert; from σ < 0.5 on another, falling to a quarter."""
    return MagnitudeCurve.from_ratios([1, 0.5, 99, 0.25], [1, 0.6, 0.4, 0], switch=(2, 0.5))


def test_no_ratio_across_a_switch() -> None:
    assert two_experts().ratios([1, 0.6, 0.4, 0]) == [
        1,
        pytest.approx(0.5),
        None,
        pytest.approx(0.25),
    ]
    assert two_experts().ratio(0.4, 0.6) is None


def test_the_switch_itself_belongs_to_the_first_expert() -> None:
    assert two_experts().ratio(1, 0.5) == pytest.approx(0.5 ** (0.5 / 0.4))
    assert two_experts().ratio(1, 0.499) is None
    assert two_experts().ratio(0.499, 0) is not None


def test_parts_are_the_experts_own_curves() -> None:
    first, second = (two_experts().part(i) for i in (0, 1))
    assert first.positions == (1, 0.6) and second.positions == (0.4, 0)
    assert first.parts == second.parts == 1
    assert first.ratio(1, 0) == pytest.approx(0.5**2.5)  # alone it goes on past the switch
    assert second.ratio(0.4, 0.2) == pytest.approx(0.5)


def test_a_switch_over_the_fraction() -> None:
    curve = MagnitudeCurve.from_ratios([1, 0.5, 99, 0.25], switch=(2, 0.5))
    assert curve.ratios([0, 0.25, 0.5, 0.75]) == [1, pytest.approx(0.5), None, pytest.approx(0.25)]


@pytest.mark.parametrize(
    ("ratios", "sigmas", "message"),
    [
        ([], None, "at least one ratio"),
        ([1, 0], None, "must be positive"),
        ([1, -0.5], None, "must be positive"),
        ([1, float("nan")], None, "must be positive"),
        ([1, float("inf")], None, "must be positive"),
        ([1, 1], [1], "2 ratios do not match 1 sigmas"),
        ([1, 1], [1, 1], "must fall strictly"),
        ([1, 1], [0.5, 1], "must fall strictly"),
    ],
)
def test_broken_lists_are_refused(
    ratios: list[float], sigmas: list[float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MagnitudeCurve.from_ratios(ratios, sigmas)


@pytest.mark.parametrize(("steps", "copied"), [(50, 0.361), (30, 0.526), (20, 0.640)])
def test_wan_14b_keeps_its_product_at_other_step_counts(steps: int, copied: float) -> None:
    """Composed by σ it stays 0.361; copying the nearest entry of the list loses most of it."""
    preset = presets.load("wan2.1_t2v_14B")
    listed, sigmas, curve = ratios_of(preset)["cond"], sigmas_of(preset), preset.curves["cond"]
    assert sigmas
    nearest = [listed[round(step * (len(listed) - 1) / (steps - 1))] for step in range(steps)]
    assert math.prod(nearest) == pytest.approx(copied, abs=5e-4)
    # A coarser schedule's last step is at a higher σ than the list's: go on to the list's.
    composed = curve.ratios([*preset.trajectory(steps).sigmas, sigmas[-1]])
    assert math.prod(r or 0 for r in composed) == pytest.approx(0.361, abs=5e-4)


@pytest.mark.parametrize(("steps", "product"), [(50, 0.361), (30, 0.400), (20, 0.448)])
def test_wan_14b_run_ends_where_its_last_step_is(steps: int, product: float) -> None:
    curve = presets.load("wan2.1_t2v_14B").curves["cond"]
    found = curve.ratios(shifted_sigmas(steps, 5))
    assert math.prod(r or 0 for r in found) == pytest.approx(product, abs=5e-4)


def test_shifted_sigmas_follow_the_formula() -> None:
    assert shifted_sigmas(4) == (1, 0.75, 0.5, 0.25)
    assert shifted_sigmas(4, 3) == pytest.approx((1, 0.9, 0.75, 0.5))


def test_fraction_counts_steps_at_the_steps() -> None:
    trajectory = Trajectory((1.0, 0.9, 0.75, 0.5))
    assert [trajectory.fraction(s) for s in trajectory.sigmas] == [0, 0.25, 0.5, 0.75]
    assert trajectory.fraction(0.95) == pytest.approx(0.125)
    assert trajectory.fraction(0.25) == pytest.approx(0.875)


def test_fraction_stays_between_zero_and_one() -> None:
    trajectory = Trajectory((0.8, 0.4))
    assert trajectory.fraction(1.0) == 0 and trajectory.fraction(-1.0) == 1
    assert trajectory.sigma_at(-0.5) == 0.8 and trajectory.sigma_at(1.5) == 0


@given(trajectories(), st.floats(0, 1))
def test_sigma_at_is_the_inverse_of_fraction(trajectory: Trajectory, fraction: float) -> None:
    assert trajectory.fraction(trajectory.sigma_at(fraction)) == pytest.approx(fraction, abs=1e-6)


@given(trajectories(), st.floats(0, 1))
def test_fraction_is_the_inverse_of_sigma_at(trajectory: Trajectory, share: float) -> None:
    sigma = share * trajectory.sigmas[0]
    assert trajectory.sigma_at(trajectory.fraction(sigma)) == pytest.approx(sigma, abs=1e-6)


def test_one_step() -> None:
    trajectory = Trajectory((0.7,))
    assert trajectory.steps == 1
    assert trajectory.fraction(0.7) == 0 and trajectory.fraction(0.35) == pytest.approx(0.5)


def test_a_trajectory_may_end_at_sigma_zero() -> None:
    trajectory = Trajectory((1.0, 0.5, 0.0))
    assert [trajectory.fraction(s) for s in (1, 0.5, 0)] == pytest.approx([0, 1 / 3, 2 / 3])


def test_repeats_of_a_second_order_sampler_count_once() -> None:
    heun = Trajectory((1.0, 0.6, 0.6, 0.2, 0.2))
    assert heun.sigmas == (1.0, 0.6, 0.2) and heun.steps == 3
    assert heun == Trajectory((1.0, 0.6, 0.2))


@pytest.mark.parametrize("sigmas", [(0.2, 0.6), (1.0, 0.5, 0.7), (1.0, 0.5, 1.0)])
def test_a_trajectory_does_not_rise(sigmas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="sigmas of a trajectory must fall"):
        Trajectory(sigmas)


def test_a_trajectory_is_not_empty() -> None:
    with pytest.raises(ValueError, match="at least one sigma"):
        Trajectory(())


def test_resampling_a_trajectory_takes_every_second_step_at_half_the_steps() -> None:
    sigmas = (1.0, 0.9, 0.75, 0.5)
    assert resampled_trajectory(sigmas).sigmas == sigmas
    assert resampled_trajectory(sigmas, 2).sigmas == (1.0, 0.75)
    assert resampled_trajectory(sigmas, 2, shift=1).sigmas == (1.0, 0.5)


@pytest.mark.parametrize(
    ("steps", "shift", "message"),
    [(0, None, "steps must be 1 or more, got 0"), (4, 0, "shift must be above 0, got 0")],
)
def test_bad_resampling_is_refused(steps: int, shift: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resampled_trajectory((1.0, 0.5), steps, shift)
