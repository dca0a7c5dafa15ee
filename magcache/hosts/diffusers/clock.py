"""Which evaluation a model call belongs to, told from the pipeline's scheduler."""

from dataclasses import dataclass
from typing import Any

from magcache.curve import Trajectory


@dataclass(frozen=True)
class Tick:
    """One evaluation.

    Attributes:
        index: Its number on the scheduler, from 0 on an undivided run.
        sigma: Its noise level.
        step: Its step in this run.
        last: Whether no evaluation follows.
    """

    index: int
    sigma: float
    step: int
    last: bool


class SchedulerClock:
    """Reads diffusers' scheduler: its σ list, and the index it has advanced to.

    Each `scheduler.step` is one evaluation, so a second-order sampler's two evaluations a step
    count twice, and the two calls of true CFG once.

    Args:
        scheduler: The pipeline's scheduler, after `set_timesteps`.

    Attributes:
        trajectory: The whole trajectory, of which an img2img run samples a part.
        steps: Steps of this run.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._timesteps = scheduler.timesteps
        count = len(scheduler.timesteps)
        self._sigmas: list[float] = scheduler.sigmas[:count].tolist()
        self._order = getattr(scheduler, "order", 1)
        self._begin = self._index()
        self.trajectory = Trajectory(tuple(self._sigmas))
        self.steps = -(-(count - self._begin) // self._order)

    def of_same_run(self, scheduler: Any) -> bool:
        """Whether `scheduler` has not been set up anew since this clock was made."""
        return scheduler is self._scheduler and scheduler.timesteps is self._timesteps

    def read(self) -> Tick:
        index = self._index()
        return Tick(
            index=index,
            sigma=self._sigmas[index],
            step=(index - self._begin) // self._order,
            last=index == len(self._sigmas) - 1,
        )

    def _index(self) -> int:
        advanced = self._scheduler.step_index
        return advanced if advanced is not None else self._scheduler.begin_index or 0
