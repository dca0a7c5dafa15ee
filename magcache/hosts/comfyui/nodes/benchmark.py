"""MagCache Benchmark: measures what MagCache gains on a model, in the user's own workflow."""

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
    """Takes MagCache's place, and samples without it, at each speed, and with fewer steps."""

    CATEGORY = "MagCache"
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = (
        "Connect it to the sampler, which then samples several times and returns the picture "
        "made without MagCache.",
    )
    DESCRIPTION = (
        "Measures how much faster MagCache makes your own model and how close the results are, "
        "and compares it with plain sampling with fewer steps. Put it in place of MagCache and "
        "run the workflow once; MagCache Report behind the sampler shows the result."
    )
    SEARCH_ALIASES = ("measure", "speed test", "quality test")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": MODEL,
                "vae": entry("VAE", "Decodes the pictures to compare."),
                "speeds": entry(
                    "STRING",
                    "The speeds to measure, above 1 and up to 4. Each adds two runs per picture.",
                    default=_SPEEDS,
                ),
                "samples": number(
                    (3, 1, 16, 1), "Number of pictures, from the sampler's seed and the next ones."
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
            raise ValueError(f"there is nothing to measure, MagCache leaves this model: {reason}")
        watch = Watch(node_id, f"speeds {speeds}, samples {samples}")
        benchmark = Benchmark(vae, speeds_of(speeds), samples, planned, watch)
        return (install(model, Settings(instead=benchmark), watch),)
