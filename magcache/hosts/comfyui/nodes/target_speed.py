"""MagCache, the node that most people need: it asks only for a speed-up."""

from typing import Any

from ....decide import FEW_STEPS, Target
from .. import calibrations, detect, host
from ..models import class_name, misfit, remembers
from ..settings import Settings
from ..start import Start
from ..watch import Watch
from ..wrappers import install
from .widgets import AUTOMATIC, HIDDEN, MODEL, Calibrated, entry, number


class MagCacheTargetSpeed(Calibrated):
    """Plans the best schedule for a speed-up, from the prior or a calibration.

    The id is older than the name: the node used to be "MagCache (Target Speed)".
    """

    CATEGORY = "MagCache"
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model with MagCache. The input model is unchanged.",)
    DESCRIPTION = (
        "Makes sampling faster, with any model and from the first run. Put it right behind the "
        "model loader and choose a speed."
    )
    SEARCH_ALIASES = (
        "speed up", "faster", "accelerate", "acceleration", "optimize", "cache", "teacache",
        "easycache",
        # The same in Chinese:
        "\u52a0\u901f", "\u63d0\u901f", "\u66f4\u5feb", "\u7f13\u5b58", "\u4f18\u5316",
    )  # fmt: skip

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": MODEL,
                "speedup": number(
                    (2.0, 1.0, 4.0, 0.1),
                    "How many times faster. Higher is faster and further from the original "
                    "picture; 1 changes nothing.",
                ),
                "calibration": cls.calibration_input(
                    "Leave it on automatic. MagCache needs no calibration, but uses one of this "
                    "model if you have made it.",
                    advanced=True,
                ),
            },
            "optional": {
                "draft": entry(
                    "BOOLEAN",
                    "Skips more where few steps leave little to gain. The picture then visibly "
                    "differs, about as much as with fewer steps. For trying prompts and seeds.",
                    default=False,
                    advanced=True,
                ),
            },
            "hidden": HIDDEN,
        }

    @classmethod
    def VALIDATE_INPUTS(cls, calibration: str | None = None) -> bool | str:
        """Checks that the file exists; ComfyUI leaves out an input that is connected to a node."""
        return calibration in (None, *cls.WORDS) or calibrations.is_there(calibration)

    def apply(
        self,
        model: Any,
        speedup: float,
        calibration: str,
        draft: bool = False,
        node_id: str | None = None,
    ) -> tuple[Any]:
        host.check_model(model)
        target = Target(speedup, draft=draft)
        if target.skips_nothing:
            return (model,)
        watch = Watch(node_id, f"speed-up {speedup:g}, calibration {calibration}")
        if calibration != AUTOMATIC:
            if reason := misfit(model):
                return (host.uncached(model, reason, node_id),)
            source = calibrations.load(calibration, class_name(model))
            source.check_grams()
            settings = Settings(source, target, detect.store(), label=source.name)
            return (install(model, settings, watch),)
        if reason := remembers(model):
            return (host.uncached(model, reason, node_id),)

        return (install(model, planned(target), watch),)


def planned(target: Target) -> Settings:
    """Settings when no calibration was chosen: the nearest stored one, or the prior."""
    store = detect.store()

    def choose(patcher: Any, start: Start) -> Settings:
        # With a calibration, residuals are predicted. That was not tried in few steps, and
        # residuals cannot be kept while context windows move.
        few = len(start.made_with["sigmas"]) - 1 < FEW_STEPS
        unfit = misfit(patcher) or few or patcher.model_options.get("context_handler")
        found = None if unfit else calibrations.nearest(patcher, start.made_with)
        if found is None:
            return Settings(asked=target, store=store, label="forecast", at_output=True)
        source = found.calibration
        return Settings(source, target, store, label=source.name, note=str(found))

    return Settings(choose=choose)
