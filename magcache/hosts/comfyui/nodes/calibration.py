"""MagCache Calibration: measures a model's curve and saves it to a file."""

from typing import Any

from .. import calibrations, detect, host
from ..models import AUTO, OLD_NAMES, class_name, misfit
from ..watch import Watch
from ..wrappers import install
from .widgets import HIDDEN, MODEL, model_type_input


class MagCacheCalibration:
    """Measures a model's magnitude curve during one ordinary run."""

    CATEGORY = "MagCache"
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model; it is measured while it is sampled.",)
    DESCRIPTION = "Measures how a model behaves during one ordinary run, and saves it for MagCache."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": MODEL,
                "model_type": model_type_input(
                    "The model's type, which also names the file. auto uses the model's class."
                ),
            },
            "hidden": HIDDEN,
        }

    def apply(self, model: Any, model_type: str, node_id: str | None = None) -> tuple[Any]:
        host.check_model(model)
        if reason := misfit(model):
            return (host.uncached(model, reason, node_id),)
        kind = OLD_NAMES.get(model_type, model_type)
        if kind != AUTO:
            detect.check_type(model, kind)
        name = class_name(model) if kind == AUTO else kind
        watch = Watch(node_id, f"model_type {model_type}")
        return (install(model, calibrations.measuring(node_id, name), watch),)
