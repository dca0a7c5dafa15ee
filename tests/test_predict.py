"""A weighted sum of cached residuals."""

import torch

from magcache.blocks.predict import combine
from tests.toys import tokens


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
