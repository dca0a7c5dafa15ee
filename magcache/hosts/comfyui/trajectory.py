"""Where on the whole trajectory a sampling lies; ComfyUI shows a part of it only its own σ."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

from ...curves import GramCurve, MagnitudeCurve, Trajectory

Curve = TypeVar("Curve", MagnitudeCurve, GramCurve)

_GRID = 1000  # points at which the model's own σ are looked at
_TOLERANCE = 1e-3
_NOISE_LEFT = 0.05  # of the greatest σ; a whole run that does not end at 0 ends below it
_LEAP = 1.5  # a last step this many times as long as the one before it stands for several


def whole(model_sampling: Any, sigmas: Sequence[float]) -> Trajectory:
    """The whole trajectory of a run: its own σ where it is undivided.

    A part (a split run, img2img) is continued with the model's σ at the run's own spacing, so
    that a fraction of the trajectory is the same step as in the undivided run. A part may end at
    0 all the same: without leftover noise ComfyUI puts it in place of the last σ.

    Args:
        model_sampling: ComfyUI's object that knows the model's σ.
        sigmas: The run's, the one it ends at included.
    """
    top = _top(model_sampling)
    steps = list(sigmas[:-1]) or list(sigmas)
    grid = [float(model_sampling.percent_to_sigma(i / _GRID)) for i in range(_GRID)]
    model = Trajectory(tuple(min(sigma, top) for sigma in grid))
    places = [model.fraction(sigma) for sigma in sigmas]
    end = _end(places)
    undivided = sigmas[0] >= top * (1 - _TOLERANCE) and sigmas[-1] <= top * _TOLERANCE
    if undivided and end == places[-1] and _falls(steps):
        return Trajectory(tuple(steps))
    start = places[0]
    if end <= start:
        return model
    total = max(len(steps), round(len(steps) / (end - start)))
    before = min(round(start * total), total - len(steps))
    continued = [model.sigma_at(step / total) for step in range(total)]
    continued[before : before + len(steps)] = steps
    return Trajectory(tuple(continued)) if _falls(continued) else model


def is_split(model_sampling: Any, sigmas: Sequence[float], noise: torch.Tensor) -> bool:
    """Whether another sampler has the other part of a run's trajectory.

    A run that goes on from another adds no noise of its own; img2img begins as late, and does.
    """
    top = _top(model_sampling)
    goes_on = sigmas[0] < top * (1 - _TOLERANCE) and not noise.any()
    falls = sigmas[0] > sigmas[-1]  # else it puts noise on an image
    return falls and (goes_on or sigmas[-1] > top * _NOISE_LEFT)


def _top(model_sampling: Any) -> float:
    return min(float(model_sampling.percent_to_sigma(0.0)), float(model_sampling.sigma_max))


def _end(places: Sequence[float]) -> float:
    """Where a run ends, or would end, were its last step no longer than the one before."""
    lengths = [later - earlier for earlier, later in itertools.pairwise(places)]
    if len(lengths) > 1 and lengths[-1] > _LEAP * lengths[-2] > 0:
        return places[-2] + lengths[-2]
    return places[-1]


def of_expert(curves: Mapping[str, Curve], sigmas: Sequence[float]) -> dict[str, Curve]:
    """The part of each curve that a run follows: a sampler of Wan 2.2 runs one expert.

    It is the part that most of the run lies in. Its first σ would not do: workflows change
    experts at a step of theirs, a little before or after the published σ.
    """
    steps = sigmas[:-1] or sigmas
    middle = steps[len(steps) // 2]
    return {name: curve.part(curve.part_at(middle)) for name, curve in curves.items()}


def _falls(sigmas: Sequence[float]) -> bool:
    return all(later <= earlier for earlier, later in itertools.pairwise(sigmas))
