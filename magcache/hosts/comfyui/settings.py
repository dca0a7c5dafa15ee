"""What a node asks of the samplings of its model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...blocks import Store
from ...curves import Calibration
from ...decide import Rule, Target
from .models import Start
from .watch import Watch

if TYPE_CHECKING:
    from .sampling import Sampling

SETTINGS = "magcache"
"""Where they are in a model's transformer options."""


@dataclass(frozen=True)
class Settings:
    """What a node asks for. Kept in `model_options`, which ComfyUI copies: no tensors here.

    Attributes:
        source: The curve, None to calibrate.
        rule: Settings of the rule.
        target: What is asked for in place of the rule; needs a calibration's Gram curves.
        store: Where residuals are kept.
        verbose: Log every evaluation.
        label: What the log calls it.
        finished: Called with the sampling at its end.
        choose: Called as a sampling starts, with the ModelPatcher and what the sampling starts
            with; the settings it returns are in force for that sampling, but for `watch`.
        note: What the report says of the curve.
        watch: Told how samplings go, and of those that have ended.
    """

    source: Calibration | None
    rule: Rule
    store: Store = "device"
    verbose: bool = False
    label: str = ""
    finished: Callable[["Sampling"], None] | None = None
    choose: Callable[[Any, Start], "Settings"] | None = None
    note: str = ""
    target: Target | None = None
    watch: Watch | None = None


def settings_on(patcher: Any) -> Settings | None:
    """The settings on a ModelPatcher, if a node has put any there."""
    return patcher.model_options.get("transformer_options", {}).get(SETTINGS)
