"""Gram curves: what they say between a calibration's points, and the prediction made of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from magcache.curves.gram import GramCurve, best_weights
from magcache.curves.magnitude import MagnitudeCurve

RNG = np.random.default_rng(0)


def gram_of(sigmas: np.ndarray, residuals: np.ndarray) -> GramCurve:
    """What a calibration at `sigmas`, falling, knows of `residuals` (T, entries)."""
    norms = np.linalg.norm(residuals, axis=1)
    unit = residuals / norms[:, None]
    curve = MagnitudeCurve(tuple(sigmas), tuple(np.log(norms)))
    return GramCurve(curve, np.clip(unit @ unit.T, -1, 1))


def smooth(sigmas: np.ndarray, entries: int = 4000) -> np.ndarray:
    """Residuals whose every entry is a smooth random function of σ, the same at each call."""
    rng = np.random.default_rng(1)
    frequency, phase = rng.normal(0, 3, entries), rng.uniform(0, 2 * np.pi, entries)
    return np.sin(np.outer(sigmas, frequency) + phase) * (1 + sigmas[:, None])


def arc(sigmas: np.ndarray, turn: float) -> np.ndarray:
    """Residuals on a circle, which turn by `turn` from σ 0 to 1."""
    return np.stack([np.cos(turn * sigmas), np.sin(turn * sigmas)], 1)


def error_between(gram: GramCurve, cached: list[float], sigma: float) -> float:
    return float(best_weights(gram.between(np.array([*cached, sigma])))[1])


def lengths_and_values(count: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, (count, 5), elements=st.floats(-1, 1, width=32))


residual_lists = st.integers(1, 8).flatmap(lengths_and_values)
wanted_sigmas = st.lists(st.floats(-0.5, 2), min_size=1, max_size=12)


@given(residual_lists, wanted_sigmas)
def test_no_set_of_noise_levels_has_residuals_that_cannot_be(residuals, wanted):
    """The matrix stays positive semidefinite, also out of range and where a σ comes twice."""
    residuals = residuals + 1e-3 * np.eye(*residuals.shape)  # none is zero
    if np.linalg.norm(residuals, axis=1).min() < 1e-6:
        return
    gram = gram_of(np.linspace(1, 0.1, len(residuals)), residuals)
    matrix = gram.between(np.array(wanted))
    scale = np.sqrt(np.diag(matrix))
    unit = matrix / scale / scale[:, None]
    assert np.linalg.eigvalsh(unit).min() > -1e-9
    assert np.abs(unit).max() < 1 + 1e-9


def test_at_its_own_noise_levels_it_gives_back_what_was_measured():
    sigmas = np.array([1.0, 0.7, 0.5, 0.1])
    residuals = RNG.normal(size=(4, 50))
    order = [2, 0, 3, 1]
    found = gram_of(sigmas, residuals).between(sigmas[order])
    assert found == pytest.approx((residuals @ residuals.T)[np.ix_(order, order)])


def test_everywhere_the_norm_is_that_of_the_magnitude_curve():
    gram = gram_of(np.linspace(1, 0.1, 7), RNG.normal(size=(7, 30)))
    wanted = np.array([1.3, 0.93, 0.5, 0.11, 0.02])
    expected = [math.exp(2 * gram.norms.log_norm(sigma)) for sigma in wanted]
    assert np.diag(gram.between(wanted)) == pytest.approx(expected)


def test_residuals_on_a_line_are_known_between_two_points():
    sigmas = np.linspace(1, 0, 5)
    ends = RNG.normal(size=(2, 100))
    gram = gram_of(sigmas, np.outer(sigmas, ends[0]) * 0.01 + ends[1])
    assert error_between(gram, [0.75, 0.5], 0.6) < 1e-3


def test_between_two_points_it_is_off_their_line_as_far_as_on_a_circle():
    # A chord over the angle d has its middle at 1 - cos(d/2) from the circle.
    turn, count = 2.0, 11
    sigmas = np.linspace(1, 0, count)
    gram = gram_of(sigmas, arc(sigmas, turn))
    found = error_between(gram, [0.5, 0.6], 0.55)
    assert found == pytest.approx(1 - math.cos(turn / (count - 1) / 2), rel=0.05)


def test_residuals_that_bend_are_better_known_than_by_lines():
    """Of 9 points of a smooth curve; by the lines between them it would be 0.013."""
    sigmas, between = np.linspace(1, 0, 9), np.linspace(0.95, 0.05, 19)
    gram, truth = gram_of(sigmas, smooth(sigmas)), smooth(np.concatenate([sigmas, between]))
    known = gram_of(np.concatenate([sigmas, between]), truth).correlations[9:, :9]
    found = gram.between(np.concatenate([sigmas, between]))
    scale = np.sqrt(np.diag(found))
    assert np.abs((found / scale / scale[:, None])[9:, :9] - known).max() < 0.004


@pytest.mark.parametrize("crowd", [1e-3, 1e-9])
def test_points_that_lie_crowded_do_not_make_it_swing(crowd: float):
    sigmas = np.array([1.0, 0.7, 0.5, 0.5 - crowd, 0.3, 0.1])
    residuals = smooth(sigmas) + 0.3 * RNG.normal(size=(6, 4000))  # two of almost one level differ
    gram = gram_of(sigmas, residuals)
    matrix = gram.between(np.array([0.7, 0.6, 0.5, 0.4, 0.3]))
    scale = np.sqrt(np.diag(matrix))
    alike = matrix / scale / scale[:, None]
    assert alike[0, 1] > alike[0, 2] and alike[3, 4] > alike[2, 4]


def test_the_error_between_two_points_is_greatest_in_the_middle():
    gram = gram_of(np.linspace(1, 0, 6), smooth(np.linspace(1, 0, 6)))
    errors = [error_between(gram, [0.6, 0.4], sigma) for sigma in (0.6, 0.56, 0.5, 0.44, 0.4)]
    assert errors == sorted(errors[:3]) + sorted(errors[3:], reverse=True)
    assert max(errors[0], errors[-1]) < 1e-3 < errors[2]


def test_a_coarse_calibration_is_less_sure_than_a_fine_one():
    run = np.linspace(1, 0, 25)
    grams = [gram_of(at, smooth(at)) for at in (run, np.linspace(1, 0, 9), np.linspace(1, 0, 5))]
    errors = [
        np.mean([error_between(gram, [*run[p - 2 : p]], run[p]) for p in range(2, 25)])
        for gram in grams
    ]
    assert errors == sorted(errors)


def test_a_coarse_calibration_promises_no_more_than_comes_true():
    """Predicting by weights from 5 points, the errors of a run of 17 are no larger than said."""
    run, coarse = np.linspace(1, 0, 17), np.linspace(1, 0, 5)
    truth = smooth(run)
    gram = gram_of(coarse, smooth(coarse))
    said, true = [], []
    for place in range(2, 17):
        weights, error = best_weights(gram.between(run[place - 2 : place + 1]))
        predicted = weights @ truth[place - 2 : place]
        said.append(error)
        true.append(np.linalg.norm(predicted - truth[place]) / np.linalg.norm(truth[place]))
    assert np.mean(true) < 1.25 * np.mean(said)


def test_outside_its_range_it_knows_the_less_the_further_away():
    sigmas = np.linspace(0.9, 0.3, 7)
    gram = gram_of(sigmas, smooth(sigmas))
    for end, beyond in ((0.3, (0.25, 0.15, 0.0)), (0.9, (0.95, 1.05, 1.2))):
        errors = [error_between(gram, [end], sigma) for sigma in beyond]
        assert 0.01 < errors[0] < errors[1] < errors[2] < 1


def test_outside_its_range_nothing_is_a_better_guess_than_the_nearest():
    sigmas = np.linspace(1, 0.4, 7)
    gram = gram_of(sigmas, smooth(sigmas))
    errors = [error_between(gram, [cached], 0.2) for cached in (0.4, 0.5, 0.6, 0.7)]
    assert errors == sorted(errors)


def test_one_noise_level_is_one_residual_everywhere():
    gram = GramCurve(MagnitudeCurve((0.5,), (math.log(2),)), np.ones((1, 1)))
    assert gram.between(np.array([1.0, 0.5, 0.1])) == pytest.approx(np.full((3, 3), 4.0))


def test_both_sides_of_the_range_know_nothing_of_each_other():
    # Two points of correlation 0.8: those beyond them are at most as alike.
    gram = GramCurve(MagnitudeCurve((1.0, 0.5), (0.0, 0.0)), np.array([[1, 0.8], [0.8, 1]]))
    matrix = gram.between(np.array([1.5, 0.0]))
    assert matrix[0, 1] / np.sqrt(matrix[0, 0] * matrix[1, 1]) < 0.8


def test_two_noise_levels_are_enough():
    gram = gram_of(np.array([1.0, 0.0]), np.array([[1.0, 0.0], [0.6, 0.8]]))
    matrix = gram.between(np.array([1.0, 0.5, 0.0]))
    assert matrix[0, 2] == pytest.approx(0.6)
    assert 0.6 < matrix[0, 1] / math.sqrt(matrix[1, 1]) < 1


def test_the_part_of_one_expert_is_what_it_alone_measured():
    sigmas, residuals = np.array([1.0, 0.8, 0.5, 0.3, 0.1]), RNG.normal(size=(5, 20))
    norms = tuple(np.log(np.linalg.norm(residuals, axis=1)))
    whole = GramCurve(
        MagnitudeCurve(tuple(sigmas), norms, "sigma", (2,), (0.6,)),
        gram_of(sigmas, residuals).correlations,
    )
    wanted = np.array([0.5, 0.35, 0.1])
    low = gram_of(sigmas[2:], residuals[2:])
    assert whole.part(1).between(wanted) == pytest.approx(low.between(wanted))
    assert list(whole.part(0).sigmas) == [0.8, 1.0]


@pytest.mark.parametrize(
    "matrix", [np.ones((2, 2)), np.full((3, 3), np.nan), np.full((3, 3), 1.1), np.ones(3)]
)
def test_what_is_no_correlation_matrix_is_refused(matrix):
    with pytest.raises(ValueError, match="correlations"):
        GramCurve(MagnitudeCurve((1.0, 0.5, 0.1), (0.0,) * 3), matrix)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_without_a_ridge_the_weights_are_least_squares(count):
    cached, wanted = RNG.normal(size=(count, 40)), RNG.normal(size=40)
    vectors = np.vstack([cached, wanted])
    weights, error = best_weights(vectors @ vectors.T, ridge=0)
    expected, *_ = np.linalg.lstsq(cached.T, wanted, rcond=None)
    assert weights == pytest.approx(expected)
    missing = np.linalg.norm(expected @ cached - wanted) / np.linalg.norm(wanted)
    assert error == pytest.approx(missing)


@pytest.mark.parametrize("ridge", [1e-4, 0.1])
def test_the_expected_error_is_that_of_the_weights_whatever_the_ridge(ridge):
    vectors = smooth(np.array([0.8, 0.7, 0.6]))
    weights, error = best_weights(vectors @ vectors.T, ridge)
    missing = np.linalg.norm(weights @ vectors[:2] - vectors[2]) / np.linalg.norm(vectors[2])
    assert error == pytest.approx(missing)


def test_a_ridge_keeps_the_weights_of_almost_equal_residuals_small():
    near = smooth(np.array([0.5, 0.5 + 1e-7, 0.4]))
    bare, steadied = (best_weights(near @ near.T, ridge)[0] for ridge in (0, 1e-4))
    assert np.abs(bare).max() > 100
    assert np.abs(steadied).max() < 2


def test_many_predictions_at_once_are_each_on_its_own():
    stack = [vectors @ vectors.T for vectors in RNG.normal(size=(4, 3, 30))]
    weights, errors = best_weights(np.array(stack))
    assert weights.shape == (4, 2) and errors.shape == (4,)
    for place, gram in enumerate(stack):
        alone = best_weights(gram)
        assert weights[place] == pytest.approx(alone[0])
        assert errors[place] == pytest.approx(alone[1])
