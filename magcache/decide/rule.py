"""The published rule: skip while the accumulated drift of the residual's magnitude is small.

Source: MagCache, arXiv 2506.09045. Pure Python: the decision needs magnitude ratios and
positions on the trajectory, never activations.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..curves import Calibration
from .schedule import Reason
from .window import EVERY_STEP, Window


@dataclass(frozen=True)
class Rule:
    """Settings of the rule.

    Attributes:
        threshold: Largest accumulated |1 - product of magnitude ratios| at which an evaluation
            is skipped. 0 skips nothing.
        max_skip: Largest number of evaluations skipped in a row (K). 0 skips nothing.
        retention: Fraction of the whole trajectory, from its noisiest end, that is always
            computed.
        window: The steps of the run in which skipping is allowed.
        refresh: Fraction of the whole trajectory at which one evaluation is always computed
            (FLUX: 11/28), or None.
        in_short_runs: Whether to skip evaluations even in a run of few steps, where the
            difference is visible. Recommended settings do not.

    Raises:
        ValueError: A setting is out of range.
    """

    threshold: float
    max_skip: int
    retention: float
    window: Window = EVERY_STEP
    refresh: float | None = None
    in_short_runs: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise ValueError(f"threshold must be 0 or more, got {self.threshold}")
        if not (self.max_skip >= 0 and self.max_skip % 1 == 0):
            raise ValueError(f"max_skip must be a whole number, 0 or more, got {self.max_skip}")
        if not 0 <= self.retention <= 1:
            raise ValueError(f"retention must be between 0 and 1, got {self.retention}")
        if self.refresh is not None and not 0 <= self.refresh <= 1:
            raise ValueError(f"refresh must be between 0 and 1, got {self.refresh}")

    @property
    def skips_nothing(self) -> bool:
        """Whether no evaluation can ever be skipped."""
        return self.threshold == 0 or self.max_skip == 0

    def __str__(self) -> str:
        return f"threshold {self.threshold:g}, K {self.max_skip}"


def rule_of(source: Calibration, **changes: Any) -> Rule:
    """The settings recommended with a curve, with `changes`; None keeps the recommended value.

    Raises:
        ValueError: A setting is neither published nor given, or is out of range.
    """
    names = ("threshold", "max_skip", "retention", "refresh")
    settings: dict[str, Any] = {name: getattr(source, name) for name in names}
    given = {name: value for name, value in changes.items() if value is not None}
    settings.update(given)
    missing = [name for name in names[:3] if settings[name] is None]
    if missing:
        raise ValueError(f"preset {source.name} has no {', '.join(missing)}: set them yourself")
    return Rule(**settings, in_short_runs=not given.keys().isdisjoint(names))


@dataclass(frozen=True)
class _Drift:
    """What one branch has accumulated since its last computed evaluation."""

    product: float = 1.0
    skipped: int = 0
    error: float = 0.0


@dataclass
class RuleState:
    """The rule's state in one run: one accumulator per branch, one decision for all."""

    rule: Rule
    _drift: dict[str, _Drift] = field(default_factory=dict)

    def decide(self, ratios: Mapping[str, float | None]) -> Reason:
        """Decides an evaluation at which skipping is allowed.

        Args:
            ratios: For each branch, the magnitude ratio of this evaluation to the previous one,
                or None if unknown.

        Returns:
            `Reason.SKIPPED` if every branch allows it, otherwise the first objection. A computed
            evaluation resets every branch's accumulator.
        """
        objection = None
        for branch, ratio in ratios.items():
            objection = objection or self._advance(branch, ratio)
        if objection is None and ratios:
            return Reason.SKIPPED
        self.restart()
        return objection or Reason.NO_RATIO

    def copy(self) -> "RuleState":
        """A copy that can be advanced independently."""
        return RuleState(self.rule, dict(self._drift))

    def restart(self) -> None:
        """Resets all accumulators, because an evaluation was computed."""
        self._drift.clear()

    def _advance(self, branch: str, ratio: float | None) -> Reason | None:
        if self.rule.skips_nothing:
            return Reason.OFF
        if ratio is None or not math.isfinite(ratio):
            return Reason.NO_RATIO
        before = self._drift.get(branch, _Drift())
        product = before.product * ratio
        drift = _Drift(product, before.skipped + 1, before.error + abs(1 - product))
        self._drift[branch] = drift
        if drift.error > self.rule.threshold:
            return Reason.THRESHOLD
        if drift.skipped > self.rule.max_skip:
            return Reason.MAX_SKIP
        return None
