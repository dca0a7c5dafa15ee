"""The settings of a run, and the costs at which ways are compared."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from magcache.curves import shifted_sigmas

Setting = Mapping[str, Any]
"""The settings of one way, as plain data."""

SHARES = (7 / 28, 10 / 28, 14 / 28, 19 / 28)
"""Costs to compare at, as shares of the evaluations."""


@dataclass(frozen=True)
class Condition:
    """The settings of a run.

    Attributes:
        shift: Shift of a flow's noise levels; None if the model has its own levels.
        sampler: The sampler's name in ComfyUI.
    """

    steps: int
    cfg: float
    shift: float | None
    sampler: str = "euler"

    @property
    def name(self) -> str:
        """For file names."""
        return "-".join([
            f"{self.steps}-cfg{self.cfg:g}",
            *([] if self.shift is None else [f"shift{self.shift:g}"]),
            *([] if self.sampler == "euler" else [self.sampler]),
        ])  # fmt: skip

    @property
    def sigmas(self) -> tuple[float, ...]:
        """A flow's noise levels."""
        return shifted_sigmas(self.steps, self.shift or 1.0)

    @property
    def branches(self) -> int:
        """Model calls per evaluation."""
        return 1 if self.cfg == 1 else 2

    @property
    def targets(self) -> list[int]:
        """The numbers of computed evaluations to compare at."""
        return [round(share * self.steps) for share in SHARES]

    def __str__(self) -> str:
        shift = "" if self.shift is None else f", shift {self.shift:g}"
        sampler = "" if self.sampler == "euler" else f", {self.sampler}"
        return f"{self.steps} steps, CFG {self.cfg:g}{shift}{sampler}"


def grid(**values: Iterable[Any]) -> list[Setting]:
    """Every combination."""
    return [
        dict(zip(values, combination, strict=True)) for combination in product(*values.values())
    ]


def reaching(
    targets: Sequence[int],
    settings: Iterable[Setting],
    knob: str,
    values: Iterable[float],
    schedule: Callable[[Setting], Sequence[bool]],
) -> list[Setting]:
    """The settings worth sampling with, for ways whose schedule is known beforehand.

    For each setting and target, this is the value of `knob` that computes the most evaluations
    within the target. Of settings with the same schedule, only the first is kept.
    """
    values = list(values)
    kept: dict[tuple[bool, ...], Setting] = {}
    for setting in settings:
        tried = [{**setting, knob: value} for value in values]
        schedules = [tuple(schedule(each)) for each in tried]
        for target in targets:
            within = [(sum(s), place) for place, s in enumerate(schedules) if sum(s) <= target]
            if within:
                best = max(within, key=lambda pair: (pair[0], -pair[1]))
                # At most one evaluation fewer: cheaper ones belong to another target.
                if best[0] >= target - 1:
                    kept.setdefault(schedules[best[1]], tried[best[1]])
    return list(kept.values())
