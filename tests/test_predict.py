"""Weights of cached residuals, and their sum."""

import pytest
import torch

from magcache.blocks.predict import combine, weights
from magcache.curves.magnitude import MagnitudeCurve
from tests.toys import tokens

HALVES = MagnitudeCurve.from_ratios([1, 0.5, 0.5], [1, 0.5, 0])


@pytest.mark.parametrize("cached", [[0.9], [0.9, 0.8], [0.9, 0.8, 0.7]])
def test_reuse_takes_the_newest_alone(cached: list[float]) -> None:
    assert weights("reuse", HALVES, cached, 0.5) == [0.0] * (len(cached) - 1) + [1.0]


def test_scaled_reuse_has_the_curves_ratio_from_the_newest() -> None:
    assert weights("scaled", HALVES, [1.0, 0.5], 0.0) == [0.0, pytest.approx(0.5)]
    assert weights("scaled", HALVES, [1.0], 0.0) == [pytest.approx(0.25)]


def test_scaled_reuse_without_a_ratio_is_reuse() -> None:
    switched = MagnitudeCurve.from_ratios([1, 1, 1, 1], [1, 0.6, 0.4, 0], switch=(2, 0.5))
    assert weights("scaled", switched, [0.6], 0.4) == [1.0]
    assert weights("scaled", None, [0.6], 0.4) == [1.0]


def test_a_residual_of_weight_one_is_handed_on_without_a_copy() -> None:
    old, new = (tokens(1),), (tokens(2),)
    assert combine([old, new], [0.0, 1.0])[0] is new[0]


def test_a_weighted_sum_leaves_what_is_cached_alone() -> None:
    old, new = (tokens(1), tokens(10)), (tokens(2), tokens(20))
    first, second = combine([old, new], [-0.5, 2.0])
    assert torch.equal(first, tokens(3.5)) and torch.equal(second, tokens(35))
    assert torch.equal(old[0], tokens(1)) and torch.equal(new[0], tokens(2))


def test_a_prediction_keeps_the_dtype() -> None:
    residual = (tokens(2).bfloat16(),)
    (found,) = combine([residual], [1.5])
    assert found.dtype == torch.bfloat16 and found[0, 0, 0] == 3
    assert residual[0][0, 0, 0] == 2
