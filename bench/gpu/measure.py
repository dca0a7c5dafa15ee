"""Measures time and memory of single calls and whole samplings, plain and with MagCache."""

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor

import magcache
from bench.quality.first import first_run
from magcache.measure import clocked

from .cases import Case, Config, Subject

SPEEDUP = 2.0
OFF = "threshold 0"
CALIBRATING = "calibrating"
STORAGES: dict[str, Config] = {
    "": {},
    ", kept in host memory": {"store": "offload"},
    ", kept as fp8": {"dtype": torch.float8_e4m3fn},
}
"""Where residuals are kept, and in which dtype."""
HALF: Config = {"threshold": 1e9, "max_skip": 10**6, "retention": 0.5}
"""Computes the first half of the evaluations and skips the second."""
FORECAST = "forecast"
_T = TypeVar("_T")


@dataclass
class Calls:
    """Calls of one kind: median wall time and largest memory peak.

    Attributes:
        peak: Largest number of bytes on the device during a call.
        held: Largest number of bytes of residuals.
    """

    name: str
    count: int
    seconds: float
    peak: int
    held: int = 0


@dataclass
class Sampling:
    """One whole sampling.

    Attributes:
        seconds: Wall time, including MagCache's own work.
        told: The speed-up that MagCache's report states.
        difference: ‖x - y‖/‖y‖ to a result that must be equal; None if there is none.
        equal_to: The name of the sampling with that result.
    """

    name: str
    seconds: float
    evaluations: int
    computed: int
    schedule: str
    told: float
    peak: int
    held: int
    finite: bool
    difference: float | None = None
    equal_to: str = ""


@dataclass
class Figures:
    """All figures of one case.

    Attributes:
        first_call: Seconds of the very first call, including compilation.
        spread: |a/b - 1| for the medians of the first and the last plain calls.
        calls: Plain calls first.
        samplings: The plain sampling first.
    """

    name: str
    preset: str
    prepare: str
    parameters: int
    weights: int
    branches: int
    first_call: float
    spread: float = 0.0
    calls: list[Calls] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)


class OutOfTime(Exception):
    """There is no time left for further measurements."""


class Bench:
    """Measures one case after another.

    Args:
        device, dtype: Device and dtype of the models.
        deadline: No measurement starts after this time, see `time.monotonic`.
        changed: Called whenever there are new figures.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        deadline: float,
        changed: Callable[[], None],
    ) -> None:
        self.device, self.dtype = device, dtype
        self.deadline, self.changed = deadline, changed
        self.figures: list[Figures] = []
        self._calibrations: dict[str, magcache.Calibration] = {}

    def measure(self, case: Case) -> None:
        """Measures a case. If it does not finish, the figures so far are kept.

        Raises:
            OutOfTime: The case is not complete.
        """
        self._check_time()
        gc.collect()
        subject = Subject(case, self.device, self.dtype)
        _, first, _ = self._clock(lambda: subject.sample(1, _call))
        subject.sample(1, _call)
        figures = Figures(
            case.name, case.preset, case.prepare, subject.parameters, subject.weights,
            len(subject.inputs), first,
        )  # fmt: skip
        self.figures.append(figures)
        with first_run(case.preset):  # random weights have nothing to teach
            self._measure_calls(subject, figures)
            if case.steps:
                self._measure_samplings(subject, figures)

    def _measure_calls(self, subject: Subject, figures: Figures) -> None:
        case, count = subject.case, subject.case.calls
        plain = self._calls(subject, count)[0]
        figures.calls = [plain]
        # Like HALF: no error is expected to reach 0.99, so everything from `count` on is skipped.
        half: Config = {"error": 0.99, "start_step": count}
        figures.calls += self._calls(subject, 2 * count, half, FORECAST)
        preset: Config = {"preset": case.preset, "predict": "reuse"}
        figures.calls += self._calls(subject, 2 * count, {**preset, **HALF}, "reused")
        self.changed()
        if case.prepare:
            return
        calibration = self._calibration(subject, figures)
        for name, storage in self._storages(case):
            settings = {"calibration": calibration, **HALF, **storage}
            figures.calls += self._calls(subject, 2 * count, settings, f"predicted from two{name}")
            self.changed()
        figures.spread = abs(self._calls(subject, count)[0].seconds / plain.seconds - 1)
        self.changed()

    def _measure_samplings(self, subject: Subject, figures: Figures) -> None:
        case = subject.case
        plain = self._sampling(subject, figures, "plain")
        name = f"{FORECAST} at {SPEEDUP:g}x"
        self._sampling(subject, figures, name, {"speedup": SPEEDUP})
        preset: Config = {"preset": case.preset}
        if case.exact:
            self._sampling(subject, figures, OFF, {**preset, "threshold": 0.0}, plain)
        self._sampling(subject, figures, "rule as published", preset)
        if case.prepare:
            return
        name = f"planned for {SPEEDUP:g}x"
        plan = {"calibration": self._calibrations[case.preset], "speedup": SPEEDUP}
        planned = self._sampling(subject, figures, name, plan)
        for where, storage in self._storages(case)[1:]:
            equal = planned if "store" in storage else None
            self._sampling(subject, figures, name + where, {**plan, **storage}, equal, name)

    def _storages(self, case: Case) -> list[tuple[str, Config]]:
        return list(STORAGES.items())[: None if case.storages else 1]

    def _calibration(self, subject: Subject, figures: Figures) -> magcache.Calibration:
        """The model's own calibration, measured once. Calibrating calls are timed too."""
        preset = subject.case.preset
        if preset not in self._calibrations:
            figures.calls += self._calls(subject, 9, {"calibrate": True}, CALIBRATING)
        return self._calibrations[preset]

    def _calls(
        self,
        subject: Subject,
        steps: int,
        settings: Mapping[str, Any] | None = None,
        way: str = "",
    ) -> list[Calls]:
        """Samples with a wait after each call; returns figures of computed and skipped calls."""
        self._check_time()
        times: list[tuple[float, int]] = []

        def timed(call: Callable[[], Tensor]) -> Tensor:
            output, seconds, peak = self._clock(call)
            times.append((seconds, peak))
            return output

        held, schedule = 0, "#" * steps
        with self._applied(subject, settings) as applied:
            subject.sample(steps, timed)
            if applied:
                report = applied.report()
                held, schedule = report.bytes_held, report.schedule
                if way == CALIBRATING:
                    self._calibrations[subject.case.preset] = applied.calibration()
        assert len(schedule) == steps, f"more than one run: {schedule}"
        computed = way if way in ("", CALIBRATING) else f"computed, {way}"
        found, branches = [], len(subject.inputs)
        for mark, name in (("#", computed or "plain"), (".", f"skipped, {way}")):
            # Leave out the first evaluation with MagCache, which also measures the base.
            places = [i for i, m in enumerate(schedule) if m == mark and (i or not settings)]
            chosen = [times[branches * i + b] for i in places for b in range(branches)]
            if chosen:
                seconds, peaks = zip(*chosen, strict=True)
                found.append(Calls(name, len(chosen), median(seconds), max(peaks), held))
        return found

    def _sampling(
        self,
        subject: Subject,
        figures: Figures,
        name: str,
        settings: Mapping[str, Any] | None = None,
        equal: Tensor | None = None,
        equal_to: str = "plain",
    ) -> Tensor:
        """Samples without waiting for the device between calls."""
        self._check_time()
        steps = subject.case.steps
        applied: Any = None

        def work() -> Tensor:
            nonlocal applied
            with self._applied(subject, settings) as applied:
                return subject.sample(steps, _call)

        result, seconds, peak = self._clock(work)
        computed, schedule, told, held = steps, "#" * steps, 1.0, 0
        if applied:
            report = applied.report()
            computed, schedule, told = report.computed, report.schedule, report.speedup
            held = report.bytes_held
        sampling = Sampling(
            name, seconds, steps, computed, schedule, told, peak, held,
            bool(result.isfinite().all()),
        )  # fmt: skip
        if equal is not None:
            apart = (result.double() - equal.double()).norm() / equal.double().norm()
            sampling.difference, sampling.equal_to = float(apart), equal_to
        figures.samplings.append(sampling)
        self.changed()
        return result

    def _applied(self, subject: Subject, settings: Mapping[str, Any] | None) -> Any:
        if settings is None:
            return nullcontext()
        case, scheduler = subject.case, subject.scheduler
        return magcache.apply(
            subject.model, scheduler=scheduler, guidance=case.guidance, **settings
        )

    def _clock(self, work: Callable[[], _T]) -> tuple[_T, float, int]:
        """The result of `work`, its wall time, and the peak bytes on the device (0 on a CPU)."""
        return clocked(self.device, work)

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTime


def _call(call: Callable[[], Tensor]) -> Tensor:
    return call()
