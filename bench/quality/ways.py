"""The ways of sampling with diffusers: plain, this project's, and Spectrum's forecaster."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from diffusers import UniPCMultistepScheduler

import magcache
from magcache.curves import Calibration, Trajectory, presets
from magcache.decide import Course, Reason, decider_for, rule_of

from . import spectrum
from .condition import Condition, Setting, grid, reaching
from .first import first_run
from .subjects import Subject, network

THRESHOLDS = [float(x) for x in np.geomspace(0.002, 3, 60).round(4)]
FLEXES = [float(x) for x in np.arange(0, 4, 0.125)]


@dataclass
class Situation:
    """The pipeline on which ways are applied.

    Attributes:
        pipe: The pipeline, without any cache.
        calibrate: Makes the one-prompt calibration, once.
    """

    subject: Subject
    condition: Condition
    pipe: Any
    calibrate: Callable[[], Calibration]

    @cached_property
    def calibration(self) -> Calibration:
        return self.calibrate()

    @cached_property
    def ratios(self) -> list[float]:
        """The calibration's magnitude ratios at this condition's own steps."""
        branches = self.calibration.branches
        return branches.get("cond", next(iter(branches.values()))).ratios

    @property
    def curve(self) -> dict[str, Any]:
        """The source of the curve for this project's rule."""
        if self.subject.preset:
            return {"preset": self.subject.preset}
        return {"calibration": self.calibration}

    def rule_schedule(self, setting: Setting) -> list[bool]:
        """The steps that this project's rule computes."""
        subject = self.subject
        source = presets.load(subject.preset) if subject.preset else self.calibration
        sigmas = self.condition.sigmas
        course = Course.of_steps(Trajectory(tuple(sigmas)))
        made = decider_for(rule_of(source, **setting), course, source.curves).schedule()
        return [reason is not Reason.SKIPPED for reason in made.reasons]


@dataclass(frozen=True)
class Way:
    """One way of sampling.

    Attributes:
        name: Its displayed name.
        settings: The settings to sweep. "steps" in a setting replaces the condition's steps.
        opened: Applies a setting to the situation's pipeline for one batch.
        alone: Whether prompts are sampled one by one, because it decides from activations.
        own_pipe: Whether it leaves traces on a pipeline, and so gets its own.
        knob: The number in a setting that determines its cost, refined after the sweep.
    """

    name: str
    settings: Callable[[Situation], Sequence[Setting]]
    opened: Callable[[Situation, Setting], AbstractContextManager[Any]]
    alone: bool = False
    own_pipe: bool = False
    knob: str | None = None


UNCACHED = "uncached"
PLAIN = "plain, fewer steps"
RULE = "published rule"
PLANNED = "planned prediction"
FORECAST = "forecast, first run"
SOLVER = "plain with UniPC"
SPECTRUM = "Spectrum"
SLOPE = "output with a slope"


def _rule_settings(situation: Situation) -> list[Setting]:
    settings = grid(max_skip=range(1, 7), retention=(0.05, 0.1, 0.2, 0.3, 0.4))
    targets = situation.condition.targets
    return reaching(targets, settings, "threshold", THRESHOLDS, situation.rule_schedule)


def _planned_settings(situation: Situation) -> list[Setting]:
    steps = situation.condition.steps
    return [{"speedup": steps / target} for target in situation.condition.targets]


def _spectrum_settings(situation: Situation) -> list[Setting]:
    steps = situation.condition.steps
    warmups = sorted({2, 3, 5, 8, round(0.36 * steps), round(0.5 * steps)})
    settings = grid(warmup=warmups, window=(1.0, 2.0, 3.0))

    def made(setting: Setting) -> list[bool]:
        return spectrum.schedule(steps, **setting)

    return reaching(situation.condition.targets, settings, "flex", FLEXES, made)


def _spectrum(situation: Situation, setting: Setting) -> AbstractContextManager[None]:
    condition = situation.condition
    transformer = situation.pipe.transformer
    return spectrum.applied(transformer, setting, condition.steps, condition.branches)


def _slope(situation: Situation, setting: Setting) -> AbstractContextManager[None]:
    pipe, condition = situation.pipe, situation.condition
    calls = condition.branches if hasattr(pipe, "transformer") else 1  # of both in one batch
    return spectrum.sloped(network(pipe), setting, condition.steps, calls)


@contextmanager
def _first_run(situation: Situation, setting: Setting) -> Iterator[None]:
    with first_run(situation.subject.name), magcache.apply(situation.pipe, **setting):
        yield


def _solver_settings(situation: Situation) -> list[Setting]:
    return grid(steps=situation.condition.targets, order=(2, 3))


@contextmanager
def _solver(situation: Situation, setting: Setting) -> Iterator[None]:
    """UniPC, the only solver in diffusers that accepts FLUX's and Wan's noise levels."""
    pipe, shift = situation.pipe, situation.condition.shift
    own = pipe.scheduler
    levels = {} if shift is None else {
        "prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift,
    }  # fmt: skip
    pipe.scheduler = UniPCMultistepScheduler.from_config(
        {} if levels else own.config, solver_order=setting["order"], **levels
    )
    try:
        yield
    finally:
        pipe.scheduler = own


OWN = [
    Way(UNCACHED, lambda _s: [{}], lambda _s, _x: nullcontext()),
    Way(
        PLAIN,
        lambda s: [{"steps": target} for target in s.condition.targets],
        lambda _s, _x: nullcontext(),
    ),
    Way(RULE, _rule_settings, lambda s, x: magcache.apply(s.pipe, **s.curve, **x)),
    Way(
        PLANNED,
        _planned_settings,
        lambda s, x: magcache.apply(s.pipe, calibration=s.calibration, **x),
    ),
    Way(FORECAST, _planned_settings, _first_run),
    Way(SOLVER, _solver_settings, _solver),
    Way(SPECTRUM, _spectrum_settings, _spectrum),
    Way(SLOPE, _spectrum_settings, _slope),
]
