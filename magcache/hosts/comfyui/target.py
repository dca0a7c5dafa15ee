"""MagCache (Target Speed): a speed-up is all that it asks for."""

import logging
from typing import Any

from ...calibration import CalibrationError
from ...decide import Target
from ...rule import Rule
from . import calibrations, detect, host
from .families import UNFIT, class_name
from .sampling import Sampling, Settings, install

log = logging.getLogger("magcache")
_AUTOMATIC = "automatic"


class MagCacheTargetSpeed:
    """Plans the best schedule for a speed-up, from a calibration that makes itself."""

    CATEGORY = "MagCache"
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL",)
    DESCRIPTION = (
        "Makes sampling faster by the factor asked for. The first sampling of a model runs at "
        "full length and is measured; from the second one on it is accelerated."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The diffusion model, behind its LoRAs."}),
                "speedup": (
                    "FLOAT",
                    {
                        "default": 2.0,
                        "min": 1.0,
                        "max": 4.0,
                        "step": 0.1,
                        "tooltip": "How many evaluations for each computed one. More is faster "
                        "and further from the original; 1 is the original.",
                    },
                ),
                "calibration": (
                    [_AUTOMATIC, *calibrations.names()],
                    {
                        "tooltip": "automatic: the stored calibration that is nearest to the "
                        "model and the settings; where there is none, this sampling makes one."
                    },
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
        name = class_name(model)
        if name in UNFIT:
            log.warning("MagCache: the model runs uncached: %s does not fit: %s", name, UNFIT[name])
            return (model,)
        target, store = Target(speedup), detect.store()
        if target.skips_nothing:
            return (model,)
        if calibration != _AUTOMATIC:
            source = calibrations.load(calibration, name)
            if not source.grams:
                raise CalibrationError(
                    f"{calibration} was made by an older MagCache and cannot be planned with: "
                    "measure again with MagCache Calibration"
                )
            settings = Settings(source, source.rule(), store, label=source.name, target=target)
            return (install(model, settings),)

        def finished(sampling: Sampling) -> None:
            summary = calibrations.save_by_model(sampling)
            log.info("%s", summary)
            host.show(summary, node_id)

        def choose(patcher: Any, start: detect.Start) -> Settings:
            found = calibrations.nearest(patcher, start.made_with)
            if found is None:
                label = "measuring, the next sampling is accelerated"
                return Settings(None, Rule(0, 0, 0), label=label, finished=finished)
            source = found.calibration
            return Settings(
                source, source.rule(), store, label=source.name, target=target, note=str(found)
            )

        return (install(model, Settings(None, Rule(0, 0, 0), choose=choose)),)
