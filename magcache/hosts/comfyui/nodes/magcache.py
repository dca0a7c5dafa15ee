"""MagCache: the published rule, with the published curve or a calibration."""

from dataclasses import dataclass, replace
from typing import Any

from ....curves import Calibration
from ....decide import Window, rule_of
from .. import calibrations, detect, host
from ..models import AUTO, OLD_NAMES, class_name, misfit
from ..sampling import install
from ..settings import Settings
from ..start import Start
from ..watch import Watch
from .widgets import STORES, choice, model_type_input, number, store_of

_AUTOMATIC, _PUBLISHED = "automatic", "published"


@dataclass(frozen=True)
class Widgets:
    """What the node is set to, by the names of its inputs."""

    magcache_thresh: float
    retention_ratio: float
    magcache_K: int
    start_step: int
    end_step: int
    residuals: str = _AUTOMATIC
    recommended: bool = False
    calibration: str = _AUTOMATIC
    verbose: bool = False

    def __post_init__(self) -> None:
        Window(self.start_step, self.end_step)  # says what is wrong

    def asked(self, model_type: str) -> str:
        """What the report says that was asked for."""
        asked = f"model_type {model_type}, calibration {self.calibration}"
        return f"{asked}, recommended settings" if self.recommended else asked

    def settings(
        self, curve: Calibration, note: str, values_of: Calibration | None = None
    ) -> Settings:
        """Those of a curve; recommended values are those of another where one is given."""
        widgets = (self.magcache_thresh, self.retention_ratio, self.magcache_K)
        threshold, retention, max_skip = (None,) * 3 if self.recommended else widgets
        rule = rule_of(
            values_of or curve,
            threshold=threshold,
            retention=retention,
            max_skip=max_skip,
            window=Window(self.start_step, self.end_step),
        )
        store = detect.store() if self.residuals == _AUTOMATIC else store_of(self.residuals)
        return Settings(curve, rule, store, self.verbose, curve.name, note=note)


class MagCache:
    """Puts MagCache on a model."""

    CATEGORY = "MagCache"
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model with MagCache; the one that went in stays as it is.",)
    DESCRIPTION = "Skips most evaluations of a diffusion transformer: 2 to 3 times faster."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The diffusion model, behind its LoRAs."}),
                "model_type": model_type_input(
                    AUTO, "Whose published curve to use; auto finds it from the model."
                ),
                "magcache_thresh": number(
                    (0.24, 0.0, 0.3, 0.001),
                    "Largest accumulated error of a skipped evaluation. Lower is nearer to the "
                    "original; 0 skips nothing.",
                ),
                "retention_ratio": number(
                    (0.1, 0.1, 0.3, 0.01),
                    "Fraction of the trajectory, from its noisy end, in which nothing is skipped.",
                ),
                "magcache_K": number(
                    (5, 0, 6, 1), "Evaluations skipped in a row at most; 0 skips nothing."
                ),
                "start_step": number(
                    (0, -10000, 10000, 1),
                    "First step in which skipping is allowed; negative counts from the end.",
                ),
                "end_step": number(
                    (-1, -10000, 10000, 1),
                    "Last step in which skipping is allowed; -1 is the last step.",
                ),
            },
            "optional": {
                "residuals": choice(
                    [_AUTOMATIC, *STORES],
                    "Where residuals are kept between evaluations. automatic: on the compute "
                    "device, in a low-memory mode on the offload device.",
                ),
                "recommended": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Off: the widgets magcache_thresh, retention_ratio and "
                        "magcache_K are in force. On: the recommended values of the model type "
                        "are in force instead, and the three widgets are not looked at.",
                    },
                ),
                "calibration": choice(
                    [_AUTOMATIC, _PUBLISHED, *calibrations.names()],
                    "automatic: with model_type auto, the stored calibration of this very model "
                    "that is nearest to the settings, else the published curve; a model that has "
                    "neither is measured during its first sampling. published: the published curve "
                    "only. Or a file of MagCache Calibration.",
                ),
                "verbose": ("BOOLEAN", {"default": False, "tooltip": "Log each evaluation."}),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, model_type: str = AUTO, calibration: str = _AUTOMATIC) -> bool | str:
        """Accepts what the lists do not hold: older model types, and files that are newer.

        ComfyUI leaves out an input that another node gives.
        """
        named = calibration not in (_AUTOMATIC, _PUBLISHED)
        if named and isinstance(why := calibrations.is_there(calibration), str):
            return why
        return detect.known_type(model_type)

    @classmethod
    def IS_CHANGED(cls, calibration: str | None = _AUTOMATIC, **_: Any) -> float:
        return calibrations.changed(calibration)

    def apply(
        self, model: Any, model_type: str, *values: Any, node_id: str | None = None, **named: Any
    ) -> tuple[Any]:
        widgets = Widgets(*values, **named)
        host.check_version()
        host.check_model(model)
        if reason := misfit(model):
            return (host.uncached(model, reason, node_id),)
        measured = None
        if widgets.calibration not in (_AUTOMATIC, _PUBLISHED):
            measured = calibrations.load(widgets.calibration, class_name(model))
        source, note = (measured, "") if measured else detect.published(model, model_type)
        by_itself = OLD_NAMES.get(model_type, model_type) == AUTO
        by_itself = by_itself and widgets.calibration == _AUTOMATIC
        if source is None and not by_itself:
            return (host.uncached(model, note, node_id),)

        def choose(patcher: Any, start: Start) -> Settings:
            curve, note = detect.published(patcher, model_type, start)
            curve = curve or source
            found = calibrations.nearest(patcher, start.made_with) if by_itself else None
            if found and (found.same_weights or curve is None):
                return widgets.settings(found.calibration, str(found), values_of=curve)
            return widgets.settings(curve, note) if curve else calibrations.measuring(node_id)

        first = widgets.settings(source, note) if source else Settings()
        first = first if measured else replace(first, choose=choose)
        return (install(model, first, Watch(node_id, widgets.asked(model_type))),)
