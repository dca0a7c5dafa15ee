"""MagCache on a tiny model through its node, with what it did in each sampling."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from tiny_models import Tiny, sample

from magcache.blocks.stack import Residual
from magcache.hosts.comfyui.nodes.calibration import MagCacheCalibration
from magcache.hosts.comfyui.nodes.magcache import MagCache
from magcache.hosts.comfyui.sampling import Sampling
from magcache.hosts.comfyui.settings import SETTINGS, Settings
from magcache.run import Run

MODEL_TYPES = {
    "flux": "flux",
    "flux_kontext": "flux_kontext",
    "chroma": "chroma",
    "hunyuan_video": "hunyuan_video",
    "wan_t2v": "wan2.1_t2v_1.3B",
    "wan_i2v": "wan2.1_i2v_480p_14B",
    "wan_vace": "wan2.1_vace_1.3B",
    "wan_ti2v": "wan2.2_ti2v_5B",
    "wan22_i2v": "wan2.2_i2v_14B",
    "qwen_image": "qwen_image",
}
STEPS = 10


@dataclass(eq=False)
class Cached:
    """A model with MagCache on it.

    Attributes:
        model: The ModelPatcher.
        samplings: Those that have ended without an exception.
    """

    model: Any
    samplings: list[Sampling] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """Those of all samplings, in their order."""
        return [run for sampling in self.samplings for run in sampling._runs.values()]

    @property
    def run(self) -> Run:
        """The run of the last sampling."""
        (run,) = self.samplings[-1]._runs.values()
        return run


def cached(
    model: Any, tiny: Tiny, threshold: float = 0.3, max_skip: int = 1, **options: Any
) -> Cached:
    """MagCache on a model; by default every other evaluation may be skipped."""
    kind = MODEL_TYPES[tiny.name]
    retention = options.pop("retention", 0.1)
    (model,) = MagCache().apply(model, kind, threshold, retention, max_skip, 0, -1, **options)
    watched = Cached(model)
    asked = settings_of(model)

    def choose(*start: Any) -> Settings:
        return replace(asked.choose(*start), finished=watched.samplings.append)

    model.model_options["transformer_options"][SETTINGS] = replace(asked, choose=choose)
    return watched


def watching(model: Any) -> Cached:
    """The same model, whose node chooses its settings as a sampling starts, with its samplings."""
    found, asked = Cached(model), settings_of(model)

    def choose(*start: Any) -> Settings:
        settings = asked.choose(*start)
        own = settings.finished

        def finished(sampling: Sampling) -> None:
            found.samplings.append(sampling)
            if own:
                own(sampling)

        return replace(settings, finished=finished)

    model.model_options["transformer_options"][SETTINGS] = replace(asked, choose=choose)
    return found


def calibrate(model: Any, tiny: Tiny, steps: int = STEPS, **options: Any) -> torch.Tensor:
    """Leaves a calibration of the model; the output of the sampling that is measured."""
    return sample(MagCacheCalibration().apply(model, "auto")[0], tiny, steps, **options)


def settings_of(model: Any) -> Any:
    """What the node has asked for."""
    return model.model_options["transformer_options"][SETTINGS]


def difference(output: torch.Tensor, uncached: torch.Tensor) -> float:
    """Relative RMS difference from the uncached result."""
    error = (output - uncached).double()
    return float(error.square().mean().sqrt() / uncached.double().square().mean().sqrt())


def check(model: Any, tiny: Tiny, steps: int = STEPS, **options: Any) -> Run:
    """Off it is the original bit for bit; on it skips, ends near, and leaves no trace.

    Near is less than half as far off as the same schedule would be without residuals.

    Args:
        model: The ModelPatcher, other nodes applied.
        tiny: What it is.
        steps: Steps of each sampling.
        options: Passed on to `sample`.
    """
    uncached = sample(model, tiny, steps, **options)
    off, on, bare = (cached(model, tiny, threshold) for threshold in (0, 0.3, 0.3))
    assert torch.equal(sample(off.model, tiny, steps, **options), uncached)
    assert off.run.skipped == 0
    output = sample(on.model, tiny, steps, **options)
    assert on.run.skipped >= (len(on.run.evaluations) - 2) // 3
    assert not on.run.warnings
    with without_residuals():
        worst = difference(sample(bare.model, tiny, steps, **options), uncached)
    assert 0 < difference(output, uncached) < worst / 2
    assert torch.equal(sample(model, tiny, steps, **options), uncached)
    return on.run


def without_residuals() -> Any:
    """A context in which skipped evaluations add nothing: what a residual has to be better than."""

    def nothing(residuals: Sequence[Residual], _factors: Sequence[float]) -> Residual:
        return tuple(torch.zeros_like(tensor) for tensor in residuals[-1])

    return patch("magcache.run.combine", nothing)
