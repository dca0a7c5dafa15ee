"""Samples with one way and setting, in diffusers here or in ComfyUI's own process."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch

import magcache
from magcache.curves import Calibration

from .condition import Condition, Setting
from .counting import Cost, cost_of, counted
from .rivals import available
from .store import calibration_path
from .subjects import Subject, network
from .ways import OWN, Situation, Way

BATCH = 16


@dataclass(frozen=True)
class Sample:
    """The frames of a run, (N, frames, H, W, 3) in [0, 1], and its cost per prompt."""

    frames: np.ndarray
    cost: Cost


class Host(Protocol):
    """Where ways are sampled; each host has its own uncached run to compare with."""

    name: str
    notes: list[str]

    def ways(self) -> Sequence[str]:
        """The names of its ways, except the uncached one."""
        ...

    def settings(self, way: str) -> Sequence[Setting]: ...

    def batch(self, way: str) -> int:
        """How many prompts are sampled together."""
        ...

    def knob(self, way: str) -> str | None:
        """The number in a setting, besides the steps, that determines its cost."""
        ...

    def sample(
        self,
        way: str,
        setting: Setting,
        prompts: Sequence[str],
        seeds: Sequence[int],
        batch: int,
        full: float | None,
    ) -> Sample:
        """Samples each prompt with its seed; `full` is the work of a computed call for one row."""
        ...

    def close(self) -> None: ...


class DiffusersHost:
    """diffusers in this process."""

    name = "diffusers"

    def __init__(self, subject: Subject, condition: Condition) -> None:
        self._subject, self._condition = subject, condition
        rivals, self.notes = available()
        self._ways: dict[str, Way] = {way.name: way for way in OWN + rivals}
        pipe = subject.pipeline(condition)
        self._situation = Situation(subject, condition, pipe, self._calibrate)

    def ways(self) -> list[str]:
        return list(self._ways)[1:]

    def settings(self, way: str) -> Sequence[Setting]:
        return self._ways[way].settings(self._situation)

    def batch(self, way: str) -> int:
        return 1 if self._ways[way].alone else BATCH

    def knob(self, way: str) -> str | None:
        return self._ways[way].knob

    def sample(
        self,
        way: str,
        setting: Setting,
        prompts: Sequence[str],
        seeds: Sequence[int],
        batch: int,
        full: float | None,
    ) -> Sample:
        chosen, condition = self._ways[way], self._condition
        situation = self._own_situation if chosen.own_pipe else self._situation
        kept = dict(setting)
        steps = kept.pop("steps", condition.steps)
        frames = []
        with counted(network(situation.pipe), self._subject.lists) as work:
            for start in range(0, len(prompts), batch):
                part = slice(start, start + batch)
                arguments = self._subject.arguments(
                    prompts[part], seeds[part], steps, condition.cfg
                )
                with torch.no_grad(), chosen.opened(situation, kept):
                    output = situation.pipe(**arguments)
                frames.append(self._subject.frames(output[0]))
        cost = cost_of(work, len(prompts), condition.branches, full)
        return Sample(np.concatenate(frames), cost)

    def close(self) -> None:
        """Does nothing: no resources are held outside this object."""

    @cached_property
    def _own_situation(self) -> Situation:
        """A separate pipeline, for ways that leave traces on it."""
        return replace(self._situation, pipe=self._subject.pipeline(self._condition))

    def _calibrate(self) -> Calibration:
        """Calibrates with one prompt in this condition; stored, so a resumed run uses the same."""
        path = calibration_path(self._subject.name, self._condition)
        if not path.exists():
            prompt, condition = self._subject.calibration_prompts[0], self._condition
            arguments = self._subject.arguments([prompt], [0], condition.steps, condition.cfg)
            pipe: Any = self._situation.pipe
            with torch.no_grad(), magcache.apply(pipe, calibrate=True) as run:
                pipe(**arguments)
                run.calibration().save(path)
        return Calibration.load(path)
