"""Settings that a node puts on its model."""

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
"""Their key in a model's transformer options."""


class Ended(Protocol):
    """A finished run."""

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
    """A node's settings. No tensors here: ComfyUI copies the `model_options` that they are in.

    Attributes:
        source: The curve, None if there is none yet.
        asked: The rule's settings, or the target of a plan; None computes and measures
            everything.
        store: Where residuals are kept.
        verbose: Whether to log every evaluation.
        label: Name in the log.
        finished: Called with the finished run.
        choose: Called when a run starts, with the ModelPatcher and the run's start. Returns the
            settings for that run, except `watch`.
        note: The report's note on the curve.
        watch: Shows the progress of runs, and keeps their reports.
        at_output: Whether to predict the model's output from the prior, instead of the residual
            of its blocks.
        instead: Called in place of a sampling, with `benchmark.Given`; returns its result.
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
    """The settings on a ModelPatcher, if it has any."""
    return patcher.model_options.get("transformer_options", {}).get(SETTINGS)
