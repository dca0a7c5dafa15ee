"""Spectrum's forecaster, written from its published description (Han et al., arXiv 2603.01623).

It forecasts the input of the head. Each entry is a Chebyshev polynomial over the steps, fitted to
all computed steps by ridge regression, mixed with a first-order Taylor step from the last two.
After a warm-up, computed steps are `window` apart, and the window grows with each of them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from magcache.blocks import find_stack
from magcache.hosts.diffusers.models import FAMILIES

from .condition import Setting

Weigh = Callable[[Sequence[float], float], np.ndarray]
"""What each value, known at some places, weighs in the forecast at another."""
Call = Callable[[], Any]
Keep = Callable[[torch.Tensor], None]

DEGREE, RIDGE, CHEBYSHEV = 4, 0.1, 0.5  # published: polynomial's degree, λ, its share in the mix


def schedule(steps: int, warmup: int, window: float, flex: float) -> list[bool]:
    """The steps to compute."""
    computed, skipped = [], 0
    for step in range(steps):
        due = step < warmup or (skipped + 1) % max(1, math.floor(window)) == 0
        if due and step >= warmup:
            window += flex
        skipped = 0 if due else skipped + 1
        computed.append(due)
    return computed


def chebyshev_weights(
    known: Sequence[float], at: float, degree: int = DEGREE, ridge: float = RIDGE
) -> np.ndarray:
    """Weights of known values, at places in [-1, 1], in the polynomial's value at `at`.

    φ(at)ᵀ(ΦᵀΦ + λI)⁻¹Φᵀ with Φ the Chebyshev polynomials up to `degree` at the known places.
    """
    basis = np.polynomial.chebyshev.chebvander(np.asarray(known, float), degree)
    wanted = np.polynomial.chebyshev.chebvander(np.array([at], float), degree)[0]
    return wanted @ np.linalg.solve(basis.T @ basis + ridge * np.eye(degree + 1), basis.T)


def slope_weights(known: Sequence[float], at: float) -> np.ndarray:
    """Weights of a Taylor step from the last two values; a single value is repeated."""
    return forecast_weights(known, at, mix=0.0)


def forecast_weights(
    known: Sequence[float], at: float, mix: float = CHEBYSHEV, ridge: float = RIDGE
) -> np.ndarray:
    """The polynomial's weights mixed with those of a Taylor step; a single value is repeated."""
    if len(known) == 1:
        return np.ones(1)
    slope = (at - known[-1]) / (known[-1] - known[-2])
    taylor = np.zeros(len(known))
    taylor[-2:] = -slope, 1 + slope
    return mix * chebyshev_weights(known, at, ridge=ridge) + (1 - mix) * taylor


@dataclass
class _Branch:
    """The computed values of one branch, and their times in [-1, 1]."""

    weigh: Weigh
    places: list[float] = field(default_factory=list)
    seen: list[torch.Tensor] = field(default_factory=list)

    def add(self, place: float, computed: torch.Tensor) -> None:
        self.places.append(place)
        self.seen.append(computed)

    def forecast(self, at: float) -> torch.Tensor:
        weights = torch.from_numpy(self.weigh(self.places, at)).to(self.seen[0])
        return torch.einsum("k,k...->...", weights, torch.stack(self.seen))


@contextmanager
def applied(transformer: nn.Module, setting: Setting, steps: int, branches: int) -> Iterator[None]:
    """Applies Spectrum to a transformer for one run, whose branches are called in turn."""
    stack: Any = find_stack(transformer, FAMILIES)

    def computed(call: Call, keep: Keep) -> Any:
        with stack._tapped(lambda _head, tokens: keep(tokens.clone())):
            return call()

    def predicted(call: Call, forecast: torch.Tensor) -> Any:
        with stack._emptied(), stack._tapped(lambda _head, _tokens: forecast):
            return call()

    with _forecast(transformer, setting, steps, branches, forecast_weights, computed, predicted):
        yield


@contextmanager
def sloped(model: nn.Module, setting: Setting, steps: int, branches: int) -> Iterator[None]:
    """Extrapolates the model's output by a finite difference, at Spectrum's schedule."""

    def computed(call: Call, keep: Keep) -> Any:
        output = call()
        keep(output[0])
        return output

    def predicted(_call: Call, forecast: torch.Tensor) -> Any:
        return (forecast,)

    with _forecast(model, setting, steps, branches, slope_weights, computed, predicted):
        yield


@contextmanager
def _forecast(
    model: nn.Module, setting: Setting, steps: int, branches: int, weigh: Weigh,
    computed: Callable[[Call, Keep], Any], predicted: Callable[[Call, torch.Tensor], Any],
) -> Iterator[None]:  # fmt: skip
    """Computes each call of a model and keeps a value of it, or predicts it from kept values."""
    plan = schedule(steps, **setting)
    kept = [_Branch(weigh) for _ in range(branches)]
    calls, original = 0, model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        step, branch = calls // branches, kept[calls % branches]
        calls += 1
        place = 2 * step / max(1, steps - 1) - 1
        call = partial(original, *args, **kwargs)
        if not plan[step]:
            return predicted(call, branch.forecast(place))
        return computed(call, partial(branch.add, place))

    model.forward = forward
    try:
        yield
    finally:
        del model.forward
