"""What a node asks of the samplings of its model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ...blocks import Store
from ...curves import Calibration, Measurement
from ...decide import Rule, Target
from ...report import Report
from .start import Start
from .watch import Watch

SETTINGS = "magcache"
"""Where they are in a model's transformer options."""


class Ended(Protocol):
    """A sampling that has ended."""

    @property
    def patcher(self) -> Any: ...
    @property
    def made_with(self) -> Mapping[str, Any]: ...
    @property
    def steps(self) -> int: ...
    def report(self) -> Report: ...
    def measured(self) -> dict[str, Measurement]: ...


@dataclass(frozen=True)
class Settings:
    """What a node asks for. Kept in `model_options`, which ComfyUI copies: no tensors here.

    Attributes:
        source: The curve, None where there is none yet.
        asked: Settings of the rule, or what to plan for with a calibration's Gram curves; None
            computes everything, and measures it.
        store: Where residuals are kept.
        verbose: Log every evaluation.
        label: What the log calls it.
        finished: Called with the sampling at its end.
        choose: Called as a sampling starts, with the ModelPatcher and what the sampling starts
            with; the settings it returns are in force for that sampling, but for `watch`.
        note: What the report says of the curve.
        watch: Told how samplings go, and of those that have ended.
        at_output: Whether the model's output is predicted, from the prior, and not what its
            blocks add.
        instead: Called in the place of a sampling, with `benchmark.Given`; returns its result.
    """

    source: Calibration | None = None
    asked: Rule | Target | None = None
    store: Store = "device"
    verbose: bool = False
    label: str = ""
    finished: Callable[[Ended], None] | None = None
    choose: Callable[[Any, Start], "Settings"] | None = None
    note: str = ""
    watch: Watch | None = None
    at_output: bool = False
    instead: Callable[[Any], Any] | None = None


def settings_on(patcher: Any) -> Settings | None:
    """The settings on a ModelPatcher, if a node has put any there."""
    return patcher.model_options.get("transformer_options", {}).get(SETTINGS)
