"""MagCache (Target Speed): a speed-up is all that it asks for."""

from typing import Any

from ....decide import Target
from .. import calibrations, detect, host
from ..models import class_name, misfit
from ..sampling import install
from ..settings import Settings
from ..start import Start
from ..watch import Watch
from .widgets import choice, number

_AUTOMATIC = "automatic"


class MagCacheTargetSpeed:
    """Plans the best schedule for a speed-up, from a calibration that makes itself."""

    CATEGORY = "MagCache"
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model with MagCache; the one that went in stays as it is.",)
    DESCRIPTION = (
        "Makes sampling faster by the factor asked for. The first sampling of a model runs at "
        "full length and is measured; from the second one on it is accelerated."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The diffusion model, behind its LoRAs."}),
                "speedup": number(
                    (2.0, 1.0, 4.0, 0.1),
                    "How many evaluations there are for each computed one. More is faster and "
                    "further from the original; 1 is the original.",
                ),
                "calibration": choice(
                    [_AUTOMATIC, *calibrations.names()],
                    "automatic: the stored calibration that is nearest to the model and the "
                    "settings; where there is none, this sampling makes one.",
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, calibration: str = _AUTOMATIC) -> bool | str:
        """Accepts files that are newer than the list."""
        return calibration == _AUTOMATIC or calibrations.is_there(calibration)

    @classmethod
    def IS_CHANGED(cls, calibration: str | None = _AUTOMATIC, **_: Any) -> float:
        return calibrations.changed(calibration)

    def apply(
        self, model: Any, speedup: float, calibration: str, node_id: str | None = None
    ) -> tuple[Any]:
        host.check_version()
        host.check_model(model)
        if reason := misfit(model):
            return (host.uncached(model, reason, node_id),)
        target, store = Target(speedup), detect.store()
        if target.skips_nothing:
            return (model,)
        watch = Watch(node_id, f"speed-up {speedup:g}, calibration {calibration}")
        if calibration != _AUTOMATIC:
            source = calibrations.load(calibration, class_name(model))
            source.check_grams()
            settings = Settings(source, target, store, label=source.name)
            return (install(model, settings, watch),)

        def choose(patcher: Any, start: Start) -> Settings:
            found = calibrations.nearest(patcher, start.made_with)
            if found is None:
                return calibrations.measuring(node_id)
            source = found.calibration
            return Settings(source, target, store, label=source.name, note=str(found))

        return (install(model, Settings(choose=choose), watch),)
