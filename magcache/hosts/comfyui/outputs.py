"""Caches and predicts what a model returns in ComfyUI.

ComfyUI asks the context handler of a run before it computes the conditions of an evaluation. Ours
stands in front of the model's own. A skipped evaluation calls neither the model nor a ControlNet;
guidance, masks and everything else that uses the result work as always.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ...blocks import OutputCall, Path, Residual, signal_names, signals_of, velocities_of

Call = Callable[[Mapping[Hashable, tuple[str, ...]], torch.Tensor, OutputCall], Any]
"""Runs a call, given its parts with the curve of each, the latent, and the call itself."""


def level_of(model_sampling: Any) -> Callable[[float], float]:
    """Maps σ to the flow's noise level: σ for flow models, σ/(1 + σ) if the latent is x₀ + σ·ε."""
    return float if is_flow(model_sampling) else lambda sigma: sigma / (1 + sigma)


def is_flow(model_sampling: Any) -> bool:
    """Whether the latent is (1 - σ)·x₀ + σ·ε."""
    from comfy.model_sampling import CONST

    return isinstance(model_sampling, CONST)


class Handler:
    """A context handler in front of the run's own handler, if it has one.

    Args:
        call: Runs the calls of an evaluation.
        inner: The run's own handler, or None.
        path: The path to take velocities from, instead of the sampler's own latent.
    """

    def __init__(self, call: Call, inner: Any, path: Path | None = None) -> None:
        self._call, self._inner, self._path = call, inner, path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Handler":
        """Returns itself: it lives for one run."""
        return self

    def should_use_context(self, *_: Any, **__: Any) -> bool:
        """Always true, so that `execute` is called."""
        return True

    def execute(
        self,
        calculate: Callable[..., Any],
        model: Any,
        conds: Sequence[Any],
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any],
        *more: Any,
        **named: Any,
    ) -> list[torch.Tensor]:
        """The denoised latent of each list of conditions, computed or predicted."""
        asked = (model, conds, x, timestep, model_options, *more)
        forward = partial(self._computed, calculate, *asked, **named)
        there = [place for place, cond in enumerate(conds) if cond is not None]
        if not there:
            return forward()
        sigma = timestep.reshape(-1, *[1] * (x.ndim - 1)).to(x)
        x = self._path.instead_of(x) if self._path else x
        velocities = _Velocities(x, sigma, is_flow(model.model_sampling), there, len(conds))
        uuids = tuple(str(c.get("uuid")) for place in there for c in conds[place])
        parts: dict[Hashable, tuple[str, ...]] = {
            (name, number, uuids, *x.shape): (name,) for name, number in signal_names(len(there))
        }
        return self._call(parts, x, OutputCall(forward, velocities.signals, velocities.output))

    def _computed(self, calculate: Callable[..., Any], *asked: Any, **named: Any) -> Any:
        inner = self._inner
        if inner is None or not inner.should_use_context(*asked, **named):
            return calculate(*asked, **named)
        return inner.execute(calculate, *asked, **named)


@dataclass(frozen=True)
class _Velocities:
    """The velocities of an evaluation, and the signals that are predicted.

    Attributes:
        x, sigma: Latent and noise level.
        flow: Whether x is (1 - σ)·x₀ + σ·ε; otherwise it is x₀ + σ·ε.
        there: Indices of the condition lists that are present.
        count: Number of condition lists.
    """

    x: torch.Tensor
    sigma: torch.Tensor
    flow: bool
    there: Sequence[int]
    count: int

    def signals(self, denoised: Sequence[torch.Tensor]) -> Residual:
        return signals_of([self._velocity(denoised[place]) for place in self.there])

    def output(self, signals: Residual) -> list[torch.Tensor]:
        found = [torch.zeros_like(self.x) for _ in range(self.count)]
        for place, velocity in zip(self.there, velocities_of(signals), strict=True):
            found[place] = self._denoised(velocity)
        return found

    def _velocity(self, denoised: torch.Tensor) -> torch.Tensor:
        noise = (self.x - denoised) / self.sigma
        return noise if self.flow else noise - denoised

    def _denoised(self, velocity: torch.Tensor) -> torch.Tensor:
        moved = self.x - self.sigma * velocity
        return moved if self.flow else moved / (1 + self.sigma)


def ranges(conds: Any) -> list[tuple[float, float]]:
    """The σ ranges, as (highest, lowest), of everything that begins or ends during a run.

    These are conditions, each ControlNet of a chain, and the keyframes of hooks.
    """
    found: list[tuple[float, float]] = []
    branches = conds.values() if isinstance(conds, dict) else []
    for cond in (cond for branch in branches for cond in branch):
        start, end = cond.get("timestep_start"), cond.get("timestep_end")
        if start is not None or end is not None:
            found.append((_or(start, float("inf")), _or(end, 0.0)))
        control = cond.get("control")
        while control is not None:
            if getattr(control, "timestep_range", None):
                found.append((float(control.timestep_range[0]), float(control.timestep_range[1])))
            control = getattr(control, "previous_controlnet", None)
        for hook in getattr(cond.get("hooks"), "hooks", ()):
            keyframes = getattr(getattr(hook, "hook_keyframe", None), "keyframes", ())
            found += [(float(keyframe.start_t), 0.0) for keyframe in keyframes]
    return found


def _or(value: Any, default: float) -> float:
    return default if value is None else float(value)
