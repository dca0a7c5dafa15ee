"""Magnitude curves: log‖r‖ as a function of the noise level, and positions on a trajectory.

A list of magnitude ratios holds for one sampling schedule only. Its cumulative sum of logarithms
is log‖r‖ at the σ of that schedule. Linear interpolation gives the ratio between any two noise
levels: γ = exp(L(σ_2) - L(σ_1)). On the list's own schedule this returns the list.
"""

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import neg
from typing import Literal

import numpy as np

CLOSE = 1e-3  # relative; two σ this close are the same, because hosts round them
STEEPEST = 100.0  # largest log ratio; extrapolation beyond the measured range is unbounded


@dataclass(frozen=True)
class Trajectory:
    """The whole trajectory from noise to image. A run samples all of it or a part.

    Attributes:
        sigmas: Noise level at the start of each step, falling, without the final 0.
            Repeated values (second-order samplers) count once.
    """

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        distinct = [s for i, s in enumerate(self.sigmas) if i == 0 or s != self.sigmas[i - 1]]
        if not distinct:
            raise ValueError("a trajectory needs at least one sigma")
        if any(later > earlier for earlier, later in itertools.pairwise(distinct)):
            raise ValueError(f"the sigmas of a trajectory must fall, got {distinct}")
        object.__setattr__(self, "sigmas", tuple(float(s) for s in distinct))

    @property
    def steps(self) -> int:
        return len(self.sigmas)

    def fraction(self, sigma: float) -> float:
        """The fraction of the trajectory before `sigma`: 0 at its start, step/steps at a step."""
        return _interpolate(self._ends_below, self._fractions, sigma, extend=False)

    def sigma_at(self, fraction: float) -> float:
        """The inverse of `fraction`."""
        return _interpolate(self._fractions, (*self.sigmas, 0.0), fraction, extend=False)

    @cached_property
    def _fractions(self) -> tuple[float, ...]:
        return (*(step / self.steps for step in range(self.steps)), 1.0)

    @cached_property
    def _ends_below(self) -> tuple[float, ...]:
        """The sigmas and an end strictly below the last one, so that interpolation works."""
        return (*self.sigmas, min(0.0, self.sigmas[-1] - 1e-12))


def same_levels(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two lists of σ are equal up to rounding."""
    return len(first) == len(second) and np.allclose(first, second, rtol=CLOSE, atol=0)


def shifted_sigmas(steps: int, shift: float = 1.0) -> tuple[float, ...]:
    """σ of an evenly spaced flow-matching schedule with a time shift, without the final 0.

    σ = shift·u / (1 + (shift-1)·u) with u = 1 - i/steps (arXiv 2403.03206, section 5.3.2).
    """
    fractions = (1 - step / steps for step in range(steps))
    return tuple(shift * u / (1 + (shift - 1) * u) for u in fractions)


def resampled_trajectory(
    sigmas: Sequence[float], steps: int | None = None, shift: float | None = None
) -> Trajectory:
    """The schedule `sigmas` at another number of steps, or, given `shift`, an evenly spaced one.

    Raises:
        ValueError: `steps` is below 1, or `shift` is not above 0.
    """
    own = Trajectory(tuple(sigmas))
    steps = own.steps if steps is None else steps
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    if shift is not None and shift <= 0:
        raise ValueError(f"shift must be above 0, got {shift}")
    if shift is not None:
        return Trajectory(shifted_sigmas(steps, shift))
    return Trajectory(tuple(own.sigma_at(step / steps) for step in range(steps)))


@dataclass(frozen=True)
class MagnitudeCurve:
    """log‖r‖ of one branch over the noise level or, if no σ are known, over the trajectory.

    Attributes:
        positions: Where the curve was measured: falling σ (`over="sigma"`) or rising fractions
            of the trajectory (`over="fraction"`).
        log_norms: log‖r‖ there, up to a constant for each expert.
        switch: Indices at which another expert takes over. The curve is not continuous there,
            and there is no ratio across a switch.
        switch_at: Position of each switch, between the two measured positions next to it.
    """

    positions: tuple[float, ...]
    log_norms: tuple[float, ...]
    over: Literal["sigma", "fraction"] = "sigma"
    switch: tuple[int, ...] = ()
    switch_at: tuple[float, ...] = ()

    @classmethod
    def from_ratios(
        cls,
        ratios: Sequence[float],
        sigmas: Sequence[float] | None = None,
        switch: tuple[int, float] | None = None,
    ) -> "MagnitudeCurve":
        """Builds a curve from a list of magnitude ratios.

        Args:
            ratios: One ratio per step; the first has no predecessor and is ignored.
            sigmas: Noise level of each step, falling. None if the list's schedule is unknown:
                the curve is then a function of the fraction of the trajectory.
            switch: Index of the second expert's first step, and σ of the switch.

        Raises:
            ValueError: The lengths differ, a ratio is not positive, or the σ do not fall.
        """
        if not ratios:
            raise ValueError("a magnitude curve needs at least one ratio")
        if any(not (math.isfinite(r) and r > 0) for r in ratios):
            raise ValueError("magnitude ratios must be positive numbers")
        if sigmas is not None and len(sigmas) != len(ratios):
            raise ValueError(f"{len(ratios)} ratios do not match {len(sigmas)} sigmas")
        if sigmas is not None and any(b >= a for a, b in itertools.pairwise(sigmas)):
            raise ValueError("the sigmas of a magnitude curve must fall strictly")
        logs = [0.0]
        for ratio in ratios[1:]:
            logs.append(logs[-1] + math.log(ratio))
        over = "fraction" if sigmas is None else "sigma"
        positions = [i / len(ratios) for i in range(len(ratios))] if sigmas is None else sigmas
        return cls(
            positions=tuple(float(p) for p in positions),
            log_norms=tuple(logs),
            over=over,
            switch=() if switch is None else (switch[0],),
            switch_at=() if switch is None else (switch[1],),
        )

    def place(self, sigma: float, trajectory: Trajectory) -> float:
        """The position on this curve of a noise level of a trajectory."""
        return sigma if self.over == "sigma" else trajectory.fraction(sigma)

    def log_norm(self, position: float) -> float:
        """log‖r‖ at `position`, extrapolated with the end slope beyond the measured range."""
        start, stop = self.span(self.part_at(position))
        return _interpolate(
            self.positions[start:stop], self.log_norms[start:stop], position, extend=True
        )

    def ratio(self, before: float, after: float) -> float | None:
        """‖r(after)‖ / ‖r(before)‖, or None if the two belong to different experts."""
        if self.part_at(before) != self.part_at(after):
            return None
        log = self.log_norm(after) - self.log_norm(before)
        return math.exp(min(max(log, -STEEPEST), STEEPEST))

    def ratios(self, positions: Sequence[float]) -> list[float | None]:
        """The list for another schedule: 1.0, then the ratio of each neighbouring pair."""
        pairs = itertools.pairwise(positions)
        return [1.0, *(self.ratio(a, b) for a, b in pairs)][: len(positions)]

    def part(self, index: int) -> "MagnitudeCurve":
        """The curve of one expert: 0 for high noise, 1 for low noise."""
        start, stop = self.span(index)
        return MagnitudeCurve(self.positions[start:stop], self.log_norms[start:stop], self.over)

    def part_at(self, position: float) -> int:
        """Index of the expert that `position` belongs to."""
        falling = self.over == "sigma"
        return sum(position < at if falling else position >= at for at in self.switch_at)

    @property
    def parts(self) -> int:
        return len(self.switch) + 1

    def covers(self, position: float) -> bool:
        """Whether `position` lies in the measured range."""
        low, high = sorted((self.positions[0], self.positions[-1]))
        slack = 1e-6 + 1e-3 * (high - low)
        return low - slack <= position <= high + slack

    def span(self, part: int) -> tuple[int, int]:
        """First index of an expert's part, and the index after its last."""
        edges = (0, *self.switch, len(self.positions))
        return edges[part], edges[part + 1]


def _interpolate(xs: Sequence[float], ys: Sequence[float], x: float, *, extend: bool) -> float:
    """Linear interpolation, xs monotone. Outside, `extend` keeps the end slope, else the value."""
    if len(xs) == 1:
        return ys[0]
    falling = xs[0] > xs[-1]
    if not extend:
        low, high = (xs[-1], xs[0]) if falling else (xs[0], xs[-1])
        x = min(max(x, low), high)
    place = bisect_right(xs, -x, key=neg) if falling else bisect_right(xs, x)
    right = min(max(place, 1), len(xs) - 1)
    left = right - 1
    weight = (x - xs[left]) / (xs[right] - xs[left])
    return ys[left] + weight * (ys[right] - ys[left])
