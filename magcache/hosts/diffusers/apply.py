"""Accelerating diffusers pipelines: `with magcache.apply(pipe, preset="flux") as run: ...`."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from ... import presets
from ...cache import ResidualCache, Store
from ...calibration import Calibration, CalibrationError, Measurement, join
from ...calibrator import Calibrator
from ...curve import MagnitudeCurve
from ...decide import PlannedDecider, Target
from ...families import family_of, find_stack, plain_module
from ...plan import Decider
from ...predict import Method
from ...presets import Preset
from ...report import Report
from ...rule import Rule
from ...run import Run, Storage
from ...stack import StackNotFound
from .clock import SchedulerClock, Tick
from .families import FAMILIES, GUESSES
from .hook import attach, sessions_on
from .session import Expert, Session, whole_compile

log = logging.getLogger("magcache")
_COMPONENTS = ("transformer", "transformer_2")


class Applied:
    """MagCache on a pipeline, until `remove` or the end of a `with` block."""

    def __init__(self, session: Session, missing: Sequence[str]) -> None:
        self._session = session
        self._missing = missing

    def report(self) -> Report:
        """What the last sampling did (all that came since `apply` or `reset`)."""
        problems = [*self._missing, *self._session.problems]
        return Report(list(self._session.runs), "; ".join(problems))

    def reset(self) -> None:
        """Forgets past runs and frees what they hold."""
        self._session.reset()

    def calibration(self) -> Calibration:
        """What a run with `calibrate=True` has measured.

        Raises:
            CalibrationError: No evaluation was measured.
        """
        measured = [m for e in self._session.experts if (m := self._measured(e))]
        if not measured:
            raise CalibrationError("nothing was measured: apply with calibrate=True, then sample")
        branches, switch_at = join(*measured) if len(measured) == 2 else (measured[0], None)
        scheduler = self._session.scheduler()
        settings = {
            "host": "diffusers",
            "steps": self._session.runs[-1].decider.steps,
            "sampler": type(scheduler).__name__,
            "shift": scheduler.config.get("shift"),
        }
        kind = type(self._session.experts[0].transformer).__name__
        return Calibration(kind, branches, settings, switch_at=switch_at)

    def _measured(self, expert: Expert) -> dict[str, Measurement]:
        runs = [run for run in self._session.runs if run.stack is expert.stack]
        calibrator = runs[-1].calibrator if runs else None
        return calibrator.finish() if calibrator else {}

    def remove(self) -> None:
        """Takes MagCache off: the model is as before, and no residual is kept."""
        self._session.remove()

    def __enter__(self) -> "Applied":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()


def apply(
    target: Any,
    *,
    preset: str | Preset | None = None,
    calibration: str | Path | Calibration | None = None,
    calibrate: bool = False,
    threshold: float | None = None,
    max_skip: int | None = None,
    retention: float | None = None,
    start_step: int = 0,
    end_step: int = -1,
    speedup: float | None = None,
    error: float | None = None,
    keep: int = 2,
    guidance: float | None = None,
    predict: Method = "reuse",
    store: Store = "device",
    dtype: torch.dtype | None = None,
    budget: int | None = None,
    scheduler: Any = None,
) -> Applied:
    """Puts MagCache on a pipeline or a transformer; a second call replaces the first.

    Args:
        target: A diffusers pipeline, whose own calls are then accelerated (not those of others
            that share its transformer); or a transformer in a hand-written loop, together with
            the `scheduler` that gives its σ, also where `scheduler.step` is never called.
        preset: A published curve, by name (`magcache.presets.names()`) or as an object.
        calibration: A calibration of this model, as a file or an object, instead of a preset.
        calibrate: Compute everything and measure; `Applied.calibration()` has the result.
        threshold, max_skip, retention, start_step, end_step: Settings of the rule, see
            `magcache.rule.Rule`; None takes the preset's or the calibration's own.
        speedup: In place of the rule: plan the best schedule with so many evaluations for each
            computed one, 2 for instance, and predict residuals. Needs a calibration.
        error: In place of the rule: skip while a predicted residual's expected error, as a share
            of its norm, stays within this, 0.05 for instance. Needs a calibration.
        keep: With these two, how many residuals a branch keeps to predict from: 1, 2 or 3.
        guidance: CFG scale, by which the branches' errors are weighed; None takes the
            pipeline's.
        predict: With the rule, "reuse" the last residual (the published method), or reuse it
            "scaled" to the curve's magnitude.
        store, dtype, budget: Where, as what and in how many bytes residuals are kept, see
            `magcache.cache.ResidualCache`.
        scheduler: The scheduler that a bare transformer is sampled with.

    Returns:
        A context manager with `report()`, `calibration()`, `remove()`.

    Raises:
        ValueError: A setting is out of range, or preset or calibration are of another model.
        CalibrationError: The calibration file cannot be used.
        TypeError: `target` is neither a pipeline nor a transformer with a scheduler.
    """
    models = _models(target)
    scheduler_of = _scheduler_source(target, scheduler)
    storage = Storage(store, dtype, budget)
    ResidualCache(1, store, dtype)  # says at once what is wrong with the two
    source = _source(preset, calibration, calibrate)
    for model in models:
        _check_fits(source, plain_module(model), len(models))
    settings = {"threshold": threshold, "max_skip": max_skip, "retention": retention}
    aim = _target(source, settings, speedup, error, keep, start_step, end_step)
    settings |= {"start_step": start_step, "end_step": end_step}
    rule = source.rule(**settings) if source else Rule(0, 0, 0)
    label = source.name if source else "calibration"

    def make_run(clock: SchedulerClock, expert: Expert, first: Tick) -> Run:
        decider = Decider(rule, expert.curves, clock.trajectory, clock.steps, predict)
        if aim:
            scale = session.guidance if guidance is None else guidance
            decider = _planned(aim, clock, expert, first, 1.0 if scale is None else scale)
        return Run(decider, expert.stack, storage, Calibrator() if calibrate else None, label)

    remove(target)
    experts, missing = _find_experts(models, source)
    bare = isinstance(target, nn.Module) or not callable(target)
    session = Session(target, scheduler_of, experts, make_run, bare=bare)
    attach(session)
    return Applied(session, missing)


def remove(target: Any) -> None:
    """Takes MagCache off a pipeline or transformer; does nothing where there is none."""
    for session in sessions_on(target, [plain_module(model) for model in _models(target)]):
        session.remove()


def _target(
    source: Preset | Calibration | None,
    rule: dict[str, Any],
    speedup: float | None,
    error: float | None,
    keep: int,
    start_step: int,
    end_step: int,
) -> Target | None:
    """What is asked for in place of the rule, or None."""
    if speedup is None and error is None:
        return None
    given = [name for name, value in rule.items() if value is not None]
    if given:
        raise ValueError(f"speedup and error take the place of {', '.join(given)}: give one kind")
    if not isinstance(source, Calibration) or not source.grams:
        raise ValueError(
            f"{source.name if source else 'a calibrating run'} has no Gram curve to plan with: "
            "calibrate the model (apply with calibrate=True, sample once), and give that "
            "calibration"
        )
    return Target(speedup, error, keep, start_step, end_step)


def _planned(
    aim: Target, clock: SchedulerClock, expert: Expert, first: Tick, guidance: float
) -> PlannedDecider:
    """Decides the run of one expert, from `first` to where its part of the curve ends."""
    ticks = [tick for tick in clock.ahead(first) if tick.sigma >= expert.until] or [first]
    end = max(clock.end, expert.until)
    sigmas, steps = [tick.sigma for tick in ticks], [tick.step for tick in ticks]
    return PlannedDecider(aim, expert.grams, sigmas, steps, end, clock.steps, guidance)


def _find_experts(
    models: Sequence[nn.Module], source: Preset | Calibration | None
) -> tuple[list[Expert], list[str]]:
    """The transformers that can be accelerated, and why others cannot."""
    experts, missing = [], []
    for place, model in enumerate(models):
        try:
            if compiled := whole_compile(model):
                raise StackNotFound(compiled)
            transformer = plain_module(model)
            expert = Expert(transformer, find_stack(transformer, FAMILIES, GUESSES), {})
            experts.append(_with_curves(expert, source, place, len(models)))
        except StackNotFound as reason:
            missing.append(f"runs uncached: {reason}")
            log.warning("MagCache: %s", missing[-1])
    return experts, missing


def _models(target: Any) -> list[nn.Module]:
    found = [target] if isinstance(target, nn.Module) else []
    found = found or [getattr(target, name, None) for name in _COMPONENTS]
    models = [model for model in found if isinstance(model, nn.Module)]
    if not models:
        raise TypeError(
            f"{type(target).__name__} is neither a pipeline with a transformer nor a transformer"
        )
    return models


def _scheduler_source(target: Any, scheduler: Any) -> Callable[[], Any]:
    """Asked anew at each call: a pipeline's scheduler may be exchanged between runs."""
    if scheduler is None and isinstance(target, nn.Module):
        raise TypeError("a bare transformer needs scheduler=, the one it is sampled with")
    return lambda: scheduler if scheduler is not None else target.scheduler


def _source(
    preset: str | Preset | None, calibration: str | Path | Calibration | None, calibrate: bool
) -> Preset | Calibration | None:
    if calibrate and (preset is not None or calibration is not None):
        raise ValueError("calibrate=True measures a new curve: give no preset and no calibration")
    if not calibrate and (preset is None) == (calibration is None):
        raise ValueError(
            "give a preset (one of " + ", ".join(presets.names()) + ") or a calibration"
        )
    if isinstance(preset, str):
        return presets.load(preset)
    if isinstance(calibration, str | Path):
        return Calibration.load(calibration)
    return preset or calibration  # type: ignore[return-value]


def _check_fits(source: Preset | Calibration | None, transformer: nn.Module, experts: int) -> None:
    kind, family = type(transformer).__name__, family_of(transformer, FAMILIES)
    if isinstance(source, Preset) and family and family.name != source.family:
        fitting = [n for n in presets.names() if presets.load(n).family == family.name]
        raise ValueError(
            f"preset {source.name} is for {source.family}, but the model is {family.name} "
            f"({kind}); its presets: {', '.join(fitting) or 'none, calibrate it'}"
        )
    if isinstance(source, Calibration) and source.model != kind:
        raise CalibrationError(
            f"{source.name} was measured on {source.model}, but the model is {kind}: "
            "calibrate this model"
        )
    if source and experts > 1 and all(curve.parts < experts for curve in source.curves.values()):
        raise ValueError(
            f"{source.name} is for one {kind}, but the pipeline has {experts} experts: take a "
            "preset of both, or calibrate it"
        )


def _with_curves(
    expert: Expert, source: Preset | Calibration | None, place: int, count: int
) -> Expert:
    """An expert with its own part of the curves, or with all where it is the only one."""
    if source is None:
        return replace(expert, curves={"cond": MagnitudeCurve((1.0,), (0.0,))})
    grams = source.grams if isinstance(source, Calibration) else {}
    if count == 1:
        return replace(expert, curves=source.curves, grams=grams)
    ends = next(iter(source.curves.values())).switch_at
    return replace(
        expert,
        curves={name: c.part(place) if c.parts > 1 else c for name, c in source.curves.items()},
        grams={name: gram.part(place) for name, gram in grams.items()},
        until=ends[place] if place < len(ends) else 0.0,
    )
