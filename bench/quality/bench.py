"""Benchmarks one condition: sweeps on a few prompts, then measures the best on others."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .comfyhost import WAYS, ComfyHost
from .condition import Condition, Setting
from .hosts import DiffusersHost, Host
from .select import between, chosen
from .store import Result, Store, measured
from .subjects import Subject
from .ways import UNCACHED

REFINEMENTS = 3  # settings to try between two, to come close to a target
FEW = 32  # with fewer prompts to compare on, only every third setting is tried if a knob refines it
Tell = Callable[[str], None]
"""Called before each sampling with what is sampled."""


@dataclass(frozen=True)
class Prompts:
    """A set of prompts; each one's seed is its place in the subject's list."""

    name: str
    texts: tuple[str, ...]
    seeds: tuple[int, ...]


def swept(count: int) -> int:
    """The number of prompts to sweep on, if `count` prompts are compared on."""
    return max(2, min(4, count // 4))


def prompt_sets(subject: Subject, count: int) -> tuple[Prompts, Prompts]:
    """The prompts to sweep on, from the end of the list, and those to compare on, from its start.

    Raises:
        ValueError: The subject has too few prompts.
    """
    texts, few = list(subject.prompts), swept(count)
    if count < 1 or count + few > len(texts):
        raise ValueError(f"{subject.name} has {len(texts)} prompts: take 1 to {len(texts) - few}")
    places = {"sweep": range(len(texts) - few, len(texts)), "test": range(count)}
    sets = [
        Prompts(f"{name}-{len(of)}", tuple(texts[i] for i in of), tuple(of))
        for name, of in places.items()
    ]
    return sets[0], sets[1]


def hosts_of(subject: Subject, condition: Condition) -> Iterator[Host]:
    """diffusers, and ComfyUI if $COMFYUI_PATH names a checkout."""
    yield DiffusersHost(subject, condition)
    checkout = os.environ.get("COMFYUI_PATH")
    if checkout:
        yield ComfyHost(subject, condition, Path(checkout).expanduser())


class Bench:
    """One model in one condition.

    Attributes:
        notes: Ways that could not be measured, and why.
    """

    def __init__(self, subject: Subject, condition: Condition, count: int, store: Store) -> None:
        self._subject, self._condition, self._store = subject, condition, store
        self._sweep, self._test = prompt_sets(subject, count)
        self.notes: list[str] = []

    def run(self, tell: Tell, wanted: Sequence[str] = ()) -> None:
        """Measures the ways `wanted` (all if empty), except stored results."""
        for host in hosts_of(self._subject, self._condition):
            with closing(host):
                self.notes += host.notes
                for way in host.ways():
                    if not wanted or way in wanted:
                        self._way(host, way, tell)

    def _way(self, host: Host, way: str, tell: Tell) -> None:
        try:
            settings = list(host.settings(way))
            targets = self._condition.targets
            if len(settings) > len(targets):
                settings = self._swept(host, way, settings, tell)
            for setting in settings:
                self._result(host, way, setting, self._test, tell)
        except Exception as error:  # a rival that fails must not end the bench
            self.notes.append(f"{way} is left out: {error!r}")
            tell(self.notes[-1])

    def _swept(
        self, host: Host, way: str, settings: Sequence[Setting], tell: Tell
    ) -> list[Setting]:
        """The best settings at each cost, on the prompts to sweep on."""
        uncached = self._uncached(host, self._sweep, host.batch(way), tell)
        knob, condition = host.knob(way), self._condition
        tried = settings[:: 3 if knob and len(self._test.texts) < FEW else 1]
        results = [self._result(host, way, setting, self._sweep, tell) for setting in tried]
        for target in condition.targets if knob else ():
            for _ in range(REFINEMENTS):
                assert knob
                setting = between(results, uncached, knob, target / condition.steps)
                if setting is None:
                    break
                results.append(self._result(host, way, setting, self._sweep, tell))
        return [best.setting for best in chosen(results, uncached, condition)]

    def _uncached(self, host: Host, prompts: Prompts, batch: int, tell: Tell) -> Result:
        """The host's uncached run with this many prompts in a batch, for its time and work."""
        setting = {"host": host.name, "batch": batch}
        found = self._store.find(UNCACHED, setting, prompts.name)
        path = self._store.frames_path(host.name, prompts.name)
        if found and path.exists():
            return found
        tell(f"{host.name} uncached, {prompts.name}")
        sample = host.sample(UNCACHED, {}, prompts.texts, prompts.seeds, batch, None)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, sample.frames)
        measures = measured(np.load(path), sample.frames)
        result = Result(UNCACHED, setting, prompts.name, batch, sample.cost, *measures)
        self._store.add(result)
        return result

    def _result(
        self, host: Host, way: str, setting: Setting, prompts: Prompts, tell: Tell
    ) -> Result:
        found = self._store.find(way, setting, prompts.name)
        if found:
            return found
        batch = host.batch(way)
        uncached = self._uncached(host, prompts, batch, tell)
        tell(f"{way}, {prompts.name}: {json.dumps(setting)}")
        full = uncached.cost.full
        sample = host.sample(way, setting, prompts.texts, prompts.seeds, batch, full)
        reference = np.load(self._store.frames_path(host.name, prompts.name))
        measures = measured(reference, sample.frames)
        result = Result(way, setting, prompts.name, batch, sample.cost, *measures)
        self._store.add(result)
        return result


def uncached_of(results: Sequence[Result], result: Result) -> Result:
    """The uncached run with which to compare a result's time and work."""
    same = [r for r in results if r.way == UNCACHED and r.prompts == result.prompts]
    host = ComfyHost.name if result.way in WAYS else DiffusersHost.name
    fits: Any = [r for r in same if r.setting == {"host": host, "batch": result.batch}]
    return fits[0]
