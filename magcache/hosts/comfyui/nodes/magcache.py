"""MagCache (published rule): the rule, with the published curve or a calibration."""

from dataclasses import dataclass, replace
from typing import Any

from ....curves import Calibration
from ....decide import Window, rule_of
from .. import calibrations, detect, host
from ..models import AUTO, OLD_NAMES, class_name, misfit
from ..settings import Settings
from ..start import Start
from ..watch import Watch
from ..wrappers import install
from . import widgets
from .widgets import Calibrated

_RETENTION = 0.1, 0.3  # least and most, as published


@dataclass(frozen=True)
class Widgets:
    """The node's settings, by the names of its inputs."""

    magcache_thresh: float
    retention_ratio: float
    magcache_K: int
    start_step: int
    end_step: int
    residuals: str = widgets.AUTOMATIC
    recommended: bool = False
    calibration: str = widgets.AUTOMATIC
    verbose: bool = False

    def __post_init__(self) -> None:
        Window(self.start_step, self.end_step)  # raises an error if they are wrong

    def said(self, model_type: str) -> str:
        """The settings as the report quotes them."""
        said = f"model_type {model_type}, calibration {self.calibration}"
        return f"{said}, recommended settings" if self.recommended else said

    def settings(
        self, curve: Calibration, note: str, values_of: Calibration | None = None
    ) -> Settings:
        """Settings for a curve; recommended values come from `values_of` if it is given."""
        own = {
            "threshold": self.magcache_thresh,
            "retention": self.retention_ratio,
            "max_skip": self.magcache_K,
        }
        window = Window(self.start_step, self.end_step)
        rule = rule_of(values_of or curve, window=window, **({} if self.recommended else own))
        store = widgets.STORES.get(self.residuals) or detect.store()
        return Settings(curve, rule, store, self.verbose, curve.name, note=note)


class MagCache(Calibrated):
    """Puts the published rule on a model."""

    CATEGORY = "MagCache"
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model with MagCache. The input model is unchanged.",)
    DESCRIPTION = (
        "The method of the MagCache paper, with its own settings. The node MagCache is simpler, "
        "and usually closer to the original picture at the same speed."
    )
    WORDS = (widgets.AUTOMATIC, widgets.PUBLISHED)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": widgets.MODEL,
                "model_type": widgets.model_type_input(
                    "Which model's published list to use. auto recognises the model."
                ),
                "magcache_thresh": widgets.threshold(0.24, 0.3, 0.001),
                "retention_ratio": widgets.number(
                    (0.1, *_RETENTION, 0.01),
                    "First part of the run, as a fraction, in which nothing is skipped.",
                ),
                "magcache_K": widgets.most_skipped(5, 6),
                "start_step": widgets.number(
                    (0, -10000, 10000, 1),
                    "First step that may be skipped. Negative values count from the end.",
                ),
                "end_step": widgets.last_step(-10000, 10000),
            },
            "optional": {
                "residuals": widgets.entry(
                    [widgets.AUTOMATIC, *widgets.STORES],
                    f"{widgets.RESIDUALS} automatic: on the compute device, or on the offload "
                    "device in low-memory modes.",
                ),
                "recommended": widgets.entry(
                    "BOOLEAN",
                    "On: uses the recommended values of the model type and ignores the widgets "
                    "magcache_thresh, retention_ratio and magcache_K. Off: uses these three "
                    "widgets.",
                    default=True,
                ),
                "calibration": cls.calibration_input(
                    "automatic: if model_type is auto, uses the calibration of this model that is "
                    "closest to the settings, or else the published list; a model that has neither "
                    "is measured in its first run. published: uses the published list only. Or "
                    "choose a file from MagCache Calibration.",
                ),
                "verbose": widgets.entry(
                    "BOOLEAN", "Log each evaluation and the report's notes.", default=False
                ),
            },
            "hidden": widgets.HIDDEN,
        }

    @classmethod
    def VALIDATE_INPUTS(cls, retention_ratio: float = _RETENTION[0]) -> bool | str:
        """Recognises workflows of another node with this id by a whole number; see `Choices`."""
        low, high = _RETENTION
        if low <= retention_ratio <= high:
            return True
        if retention_ratio < 1 or not retention_ratio.is_integer():
            return f"{retention_ratio:g} is outside {low:g} to {high:g}: choose a value in between"
        return (
            f"{retention_ratio:g} is outside {low:g} to {high:g}: this workflow was made for "
            "another MagCache node, which has magcache_K before retention_ratio. Set magcache_K "
            f"to {retention_ratio:g}, and retention_ratio to what magcache_K was, for instance "
            f"{low:g}"
        )

    def apply(
        self, model: Any, model_type: str, *values: Any, node_id: str | None = None, **named: Any
    ) -> tuple[Any]:
        asked = Widgets(*values, **named)
        host.check_model(model)
        if reason := misfit(model):
            return (host.uncached(model, reason, node_id),)
        measured = None
        if asked.calibration not in (widgets.AUTOMATIC, widgets.PUBLISHED):
            measured = calibrations.load(asked.calibration, class_name(model))
        source, note = (measured, "") if measured else detect.published(model, model_type)
        by_itself = OLD_NAMES.get(model_type, model_type) == AUTO
        by_itself = by_itself and asked.calibration == widgets.AUTOMATIC
        if source is None and not by_itself:
            return (host.uncached(model, note, node_id),)

        def choose(patcher: Any, start: Start) -> Settings:
            curve, note = detect.published(patcher, model_type, start)
            curve = curve or source
            found = calibrations.nearest(patcher, start.made_with) if by_itself else None
            if found and (found.same_weights or curve is None):
                return asked.settings(found.calibration, str(found), values_of=curve)
            return asked.settings(curve, note) if curve else calibrations.measuring(node_id)

        first = asked.settings(source, note) if source else Settings()
        first = first if measured else replace(first, choose=choose)
        return (install(model, first, Watch(node_id, asked.said(model_type))),)
