"""Predicting a residual from cached ones: a weighted sum, the newest last."""

from collections.abc import Sequence
from typing import Literal

import torch

from ..curves import MagnitudeCurve
from .stack import Residual

Method = Literal["reuse", "scaled"]


def weights(
    method: Method, curve: MagnitudeCurve | None, cached: Sequence[float], position: float
) -> list[float]:
    """The weight of each cached residual.

    Args:
        method: "reuse" takes the newest as it is (the published method); "scaled" gives it
            the magnitude that the curve has at `position`.
        curve: The branch's magnitude curve; needed by "scaled".
        cached: Positions of the cached residuals on the curve, the newest last.
        position: Position of the residual to predict.
    """
    newest = 1.0
    if method == "scaled" and curve is not None:
        newest = curve.ratio(cached[-1], position) or 1.0
    return [0.0] * (len(cached) - 1) + [newest]


def combine(residuals: Sequence[Residual], factors: Sequence[float]) -> Residual:
    """The weighted sum of residuals; one of weight 1 is returned itself, not a copy."""
    terms = [(r, w) for r, w in zip(residuals, factors, strict=True) if w != 0]
    if len(terms) == 1 and terms[0][1] == 1:
        return terms[0][0]
    heads = range(len(terms[0][0]))
    return tuple(_weighted_sum([(r[head], w) for r, w in terms]) for head in heads)


def _weighted_sum(terms: Sequence[tuple[torch.Tensor, float]]) -> torch.Tensor:
    (first, factor), *rest = terms
    total = first * factor
    for tensor, factor in rest:
        total.add_(tensor, alpha=factor)
    return total
