"""Tells from the scheduler which evaluation a model call belongs to."""

from dataclasses import dataclass
from typing import Any

import torch

from ...curves import Trajectory

_CLOSE = 5e-3  # relative; two timesteps this close are the same, as bfloat16 rounds by 0.4 %


@dataclass(frozen=True)
class Tick:
    """One evaluation.

    Attributes:
        index: Its index in the scheduler's timesteps.
        sigma: Its noise level.
        step: Its step in this run.
        last: Whether it is the last evaluation.
    """

    index: int
    sigma: float
    step: int
    last: bool


class SchedulerClock:
    """Reads a diffusers scheduler: its list of σ, and its current index.

    Each `scheduler.step` is one evaluation. So the two evaluations per step of a second-order
    sampler count twice, and the two calls of true CFG once. Before the first `step`, which a
    hand-written loop may never call, the index is found from the model's timestep.

    Args:
        scheduler: The scheduler, after `set_timesteps`.
        timestep: The first call's `timestep`, in the scheduler's units or as a fraction.

    Attributes:
        trajectory: The whole trajectory; an img2img run samples only a part of it.
        steps: Number of steps in this run.
        end: σ after the last evaluation.

    Raises:
        AttributeError, TypeError, ValueError: The scheduler has no list of falling σ.
    """

    def __init__(self, scheduler: Any, timestep: torch.Tensor | None = None) -> None:
        self._scheduler = scheduler
        self._timesteps = scheduler.timesteps
        self._times: list[float] = scheduler.timesteps.tolist()
        levels = _noise_levels(scheduler)
        self._sigmas: list[float] = levels[: len(self._times)]
        # A model gets the timestep itself or a fraction of all; the first call shows which.
        self._scales: tuple[float, ...] = (1, scheduler.config.get("num_train_timesteps", 1000))
        self.end = next(iter(levels[len(self._times) :]), 0.0)
        self._order = getattr(scheduler, "order", 1)
        self._seen: tuple[float, int] | None = None  # the last timestep and its index
        self._begin = self._index(timestep)
        self.trajectory = Trajectory(tuple(self._sigmas))
        self.steps = -(-(len(self._times) - self._begin) // self._order)

    def of_same_run(self, scheduler: Any) -> bool:
        """Whether `scheduler` is the same and has not been set up again since then."""
        return scheduler is self._scheduler and scheduler.timesteps is self._timesteps

    def levels(self, tick: Tick) -> list[float]:
        """σ of all evaluations from `tick` on, followed by σ at the run's end."""
        return [*self._sigmas[tick.index :], self.end]

    def read(self, timestep: torch.Tensor | None = None) -> Tick | None:
        """The current evaluation, or None after the last one."""
        index = self._index(timestep)
        if index >= len(self._times):
            return None
        return self._tick(index)

    def ahead(self, tick: Tick) -> list[Tick]:
        """All evaluations from `tick` to the run's end."""
        return [self._tick(index) for index in range(tick.index, len(self._times))]

    def steps_ratio(self, tick: Tick) -> float:
        """The change of σ in the step before a tick, relative to that in the tick's own step."""
        if not tick.index:
            return 1.0
        before, now, after = [*self._sigmas, self.end][tick.index - 1 : tick.index + 2]
        return (before - now) / (now - after) if now != after else 0.0

    def first_below(self, share: float) -> int:
        """Index of the first evaluation below a fraction of the training timesteps."""
        bound = share * self._scheduler.config.get("num_train_timesteps", 1000)
        return sum(time >= bound for time in self._times)

    def _tick(self, index: int) -> Tick:
        return Tick(
            index=index,
            sigma=self._sigmas[index],
            step=(index - self._begin) // self._order,
            last=index == len(self._times) - 1,
        )

    def _index(self, timestep: torch.Tensor | None) -> int:
        advanced = getattr(self._scheduler, "step_index", None)
        if advanced is not None:
            return advanced
        expected = getattr(self._scheduler, "begin_index", None) or 0
        return expected if timestep is None else self._index_of(timestep, expected)

    def _index_of(self, timestep: torch.Tensor, expected: int) -> int:
        """Index of `timestep` in the scheduler's list; `expected` if it matches or none does."""
        time = float(timestep.max())  # Wan 2.2 5B passes one per token, 0 for known frames
        if self._seen is None or self._seen[0] != time:
            # In a loop that never steps the scheduler, only the first `expected` can be trusted.
            self._seen = time, self._find(time, expected, trusted=self._seen is None)
        return self._seen[1]

    def _find(self, time: float, expected: int, *, trusted: bool) -> int:
        candidates = [(expected, scale) for scale in self._scales]
        candidates += [(self._nearest(time * scale), scale) for scale in self._scales]
        for place, scale in candidates:
            if abs(self._times[place] - time * scale) <= _CLOSE * time * scale:
                self._scales = (scale,)
                return place if trusted else self._nearest(time * scale)
        return expected

    def _nearest(self, time: float) -> int:
        return min(range(len(self._times)), key=lambda place: abs(self._times[place] - time))


def _noise_levels(scheduler: Any) -> list[float]:
    """σ of each timestep, falling, followed by σ after the last.

    For a scheduler without σ, it is the noise share √(1 - ᾱ). Some pipelines invert the flow.
    """
    if not hasattr(scheduler, "sigmas"):
        return (1 - scheduler.alphas_cumprod[scheduler.timesteps.long().cpu()]).sqrt().tolist()
    turned = scheduler.config.get("invert_sigmas", False)
    return (1 - scheduler.sigmas if turned else scheduler.sigmas).tolist()
