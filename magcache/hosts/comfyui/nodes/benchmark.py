"""MagCache Benchmark: what MagCache is worth on this model, measured in its own workflow."""

from typing import Any

from ....measure import speeds_of
from .. import host
from ..benchmark import Benchmark
from ..models import remembers
from ..settings import Settings
from ..watch import Watch
from ..wrappers import install
from .target_speed import planned
from .widgets import HIDDEN, MODEL, entry, number

_SPEEDS = "1.5, 2, 3"


class MagCacheBenchmark:
    """In the place of MagCache: samples without it, at each speed, and with fewer steps."""

    CATEGORY = "MagCache"
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = (
        "For the sampler, which then samples several times. It returns the picture made without "
        "MagCache.",
    )
    DESCRIPTION = (
        "Measures how much faster MagCache makes your own model, and how close the results are, "
        "beside plain sampling with fewer steps. Put it in the place of MagCache and run the "
        "workflow once; MagCache Report behind the sampler shows the result."
    )
    SEARCH_ALIASES = ("measure", "speed test", "quality test")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": MODEL,
                "vae": entry("VAE", "Makes the pictures that are compared."),
                "speeds": entry(
                    "STRING",
                    "Which speeds to measure, above 1 and up to 4. Each adds two runs per picture.",
                    default=_SPEEDS,
                ),
                "samples": number(
                    (3, 1, 16, 1), "How many pictures: the sampler's seed, and the ones after it."
                ),
            },
            "hidden": HIDDEN,
        }

    @classmethod
    def VALIDATE_INPUTS(cls, speeds: str = _SPEEDS) -> bool | str:
        try:
            return bool(speeds_of(speeds))
        except ValueError as error:
            return str(error)

    def apply(
        self, model: Any, vae: Any, speeds: str, samples: int, node_id: str | None = None
    ) -> tuple[Any]:
        host.check_model(model)
        if reason := remembers(model):
            raise ValueError(f"there is nothing to measure, since MagCache leaves it: {reason}")
        watch = Watch(node_id, f"speeds {speeds}, samples {samples}")
        benchmark = Benchmark(vae, speeds_of(speeds), samples, planned, watch)
        return (install(model, Settings(instead=benchmark), watch),)
