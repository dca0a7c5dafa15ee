"""MagCache (Target Speed): a speed-up is all that it asks for."""

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
    """Plans the best schedule for a speed-up, from the prior or a calibration."""

    CATEGORY = "MagCache"
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model with MagCache; the one that went in stays as it is.",)
    DESCRIPTION = (
        "Makes sampling faster by the factor asked for, with any model, from its first sampling "
        "on: most of what the model returns is predicted and not computed."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": MODEL,
                "speedup": number(
                    (2.0, 1.0, 4.0, 0.1),
                    "How many evaluations there are for each computed one. More is faster and "
                    "further from the original; 1 is the original.",
                ),
                "calibration": cls.calibration_input(
                    "automatic: the stored calibration that is nearest to the model and the "
                    "settings; where there is none, the prior, which was measured on other models.",
                ),
            },
            "optional": {
                "draft": entry(
                    "BOOLEAN",
                    "Also take a speed-up that shows: about as far from the original as sampling "
                    "with fewer steps. For trying prompts and seeds.",
                    default=False,
                    advanced=True,
                ),
            },
            "hidden": HIDDEN,
        }

    def apply(
        self,
        model: Any,
        speedup: float,
        calibration: str,
        draft: bool = False,
        node_id: str | None = None,
    ) -> tuple[Any]:
        host.check_model(model)
        target, store = Target(speedup, draft=draft), detect.store()
        if target.skips_nothing:
            return (model,)
        watch = Watch(node_id, f"speed-up {speedup:g}, calibration {calibration}")
        if calibration != AUTOMATIC:
            if reason := misfit(model):
                return (host.uncached(model, reason, node_id),)
            source = calibrations.load(calibration, class_name(model))
            source.check_grams()
            settings = Settings(source, target, store, label=source.name)
            return (install(model, settings, watch),)
        if reason := remembers(model):
            return (host.uncached(model, reason, node_id),)

        def choose(patcher: Any, start: Start) -> Settings:
            # A calibration is of what blocks add, which was not tried at few steps, and of which
            # nothing can be kept where context windows move.
            few = len(start.made_with["sigmas"]) - 1 < FEW_STEPS
            unfit = misfit(model) or few or patcher.model_options.get("context_handler")
            found = None if unfit else calibrations.nearest(patcher, start.made_with)
            if found is None:
                return Settings(asked=target, store=store, label="prior", at_output=True)
            source = found.calibration
            return Settings(source, target, store, label=source.name, note=str(found))

        return (install(model, Settings(choose=choose), watch),)
