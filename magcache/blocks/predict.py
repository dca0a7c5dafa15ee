"""Predicts a residual as a weighted sum of cached ones, newest last."""

from collections.abc import Sequence

import torch

from .stack import Residual


def combine(residuals: Sequence[Residual], factors: Sequence[float]) -> Residual:
    """The weighted sum of residuals. A single one of weight 1 is returned without copying."""
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
