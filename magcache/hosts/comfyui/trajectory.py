"""Finds a run's place on the whole trajectory; ComfyUI gives a partial run only its own σ."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

from ...curves import GramCurve, MagnitudeCurve, Trajectory

Curve = TypeVar("Curve", MagnitudeCurve, GramCurve)

_GRID = 1000  # points at which the model's own σ are sampled
_TOLERANCE = 1e-3
_NOISE_LEFT = 0.05  # of the largest σ; a whole run ends below it
_LEAP = 1.5  # a last step this many times longer than the previous one replaces several


def whole(model_sampling: Any, sigmas: Sequence[float]) -> Trajectory:
    """The whole trajectory of a run: its own σ if the run is not divided.

    A partial run (a split run, image-to-image) is continued with the model's σ at the run's own
    spacing, so that a fraction of the trajectory is the same step as in the undivided run. Even a
    first part may end at 0: without leftover noise, ComfyUI replaces the last σ by 0.

    Args:
        model_sampling: ComfyUI's object that knows the model's σ.
        sigmas: Noise levels of the run, including the final one.
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
    """Whether another sampler runs the other part of a run's trajectory.

    A run that continues another adds no noise; image-to-image also starts late, but adds noise.
    """
    top = _top(model_sampling)
    goes_on = sigmas[0] < top * (1 - _TOLERANCE) and not noise.any()
    falls = sigmas[0] > sigmas[-1]  # otherwise it adds noise to an image
    return falls and (goes_on or sigmas[-1] > top * _NOISE_LEFT)


def _top(model_sampling: Any) -> float:
    return min(float(model_sampling.percent_to_sigma(0.0)), float(model_sampling.sigma_max))


def _end(places: Sequence[float]) -> float:
    """Where a run ends, or would end if its last step were no longer than the previous one."""
    lengths = [later - earlier for earlier, later in itertools.pairwise(places)]
    if len(lengths) > 1 and lengths[-1] > _LEAP * lengths[-2] > 0:
        return places[-2] + lengths[-2]
    return places[-1]


def of_expert(curves: Mapping[str, Curve], sigmas: Sequence[float]) -> dict[str, Curve]:
    """The part of each curve that a run follows: each sampler of Wan 2.2 runs one expert.

    The middle of the run decides. Its first σ would not do, because workflows switch experts at a
    step of their choice, a little before or after the published σ.
    """
    steps = sigmas[:-1] or sigmas
    middle = steps[len(steps) // 2]
    return {name: curve.part(curve.part_at(middle)) for name, curve in curves.items()}


def _falls(sigmas: Sequence[float]) -> bool:
    return all(later <= earlier for earlier, later in itertools.pairwise(sigmas))
