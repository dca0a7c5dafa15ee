"""Accelerating diffusers pipelines: `with magcache.apply(pipe, preset="flux") as run: ...`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...blocks import Method, ResidualCache, plain_module
from ...blocks import Store as Place
from ...curves import Calibration, GuidedGrams, Store, presets
from ...decide import Decider, Mender, PlannedDecider, Rule, Target, rule_of
from ...run import Run, Storage
from .applied import Applied
from .automatic import Automatic
from .clock import SchedulerClock, Tick
from .experts import check_fits, find_experts, give_curves, models_of
from .hook import attach, sessions_on
from .parallel import Company
from .session import Expert, Session


def apply(
    target: Any,
    *,
    preset: str | Calibration | None = None,
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
    predict: Method | None = None,
    store: Place = "device",
    dtype: torch.dtype | None = None,
    budget: int | None = None,
    scheduler: Any = None,
    branch: str | None = None,
    group: Any = None,
    padding: int = 0,
) -> Applied:
    """Puts MagCache on a pipeline or a transformer; a second call replaces the first.

    Args:
        target: A diffusers pipeline, whose own calls are then accelerated (not those of others
            that share its transformer); or a transformer in a hand-written loop, together with
            the `scheduler` that gives its σ, also where `scheduler.step` is never called.
        preset: A published curve, by name (`magcache presets` lists them) or as an object.
        calibration: A calibration of this model, as a file or an object, instead of a preset.
        calibrate: Compute everything and measure; `Applied.calibration()` has the result.
        threshold, max_skip, retention, start_step, end_step: Settings of the rule, see
            `magcache.Rule`; None takes the preset's or the calibration's own.
        speedup: In place of the rule: plan the best schedule with so many evaluations for each
            computed one, 2 for instance, and predict residuals.
        error: In place of the rule: skip while a predicted residual's expected error, as a share
            of its norm, stays within this, 0.05 for instance. Both take the stored calibration
            that is nearest to model and settings, unless one is given; where there is none, the
            next sampling computes everything, is measured, and the measurement is stored.
        keep: With these two, how many residuals a branch keeps to predict from: 1, 2 or 3.
        guidance: CFG scale, by which the branches' errors are weighed; None takes the
            pipeline's.
        predict: With the rule, "reuse" the last residual (the published method), or reuse it
            "scaled" to the curve's magnitude; None predicts from the last two where a
            calibration allows it, else reuses.
        store, dtype, budget: Where, as what and in how many bytes residuals are kept, see
            `magcache.blocks.ResidualCache`.
        scheduler: The scheduler that a bare transformer is sampled with.
        branch: Where CFG is split over processes, the one that this process samples: "cond",
            "uncond" or "ref". They decide together, as do those among which diffusers has split
            the tokens.
        group: The torch.distributed group of the processes that `branch` is about; None for all.
        padding: How many tokens at the end of each sequence only make it divisible by the
            number of processes; they are not measured.

    Returns:
        A context manager with `report()`, `calibration()`, `remove()`.

    Raises:
        ValueError: A setting is out of range, or preset or calibration are of another model.
        CalibrationError: The calibration file cannot be used.
        TypeError: `target` is neither a pipeline nor a transformer with a scheduler.
        ParallelError: While sampling, where the processes were applied with other settings, or
            one of them has failed.
    """
    models = models_of(target)
    scheduler_of = _scheduler_source(target, scheduler)
    storage = Storage(store, dtype, budget)
    ResidualCache(1, store, dtype)  # says at once what is wrong with the two
    settings = {"threshold": threshold, "max_skip": max_skip, "retention": retention}
    aim = _target(settings, speedup, error, keep, start_step, end_step)
    source = _source(preset, calibration, calibrate, aim)
    for model in models:
        check_fits(source, plain_module(model), len(models))
    settings |= {"start_step": start_step, "end_step": end_step}
    rule = rule_of(source, **settings) if source else Rule(0, 0, 0)
    bare = isinstance(target, nn.Module) or not callable(target)
    company = Company([plain_module(model) for model in models], branch, group)
    automatic = Automatic(Store()) if aim and source is None else None
    if automatic and bare:
        raise ValueError("a hand-written loop with speedup or error needs a calibration")

    def make_run(clock: SchedulerClock, expert: Expert, first: Tick) -> Run:
        label, note = source.name if source else "calibration", ""
        measures = calibrate
        if automatic:
            found = automatic.find(session, clock)
            measures, note = found is None, str(found or "")
            label = found.calibration.name if found else "measuring"
            place = session.experts.index(expert)
            give_curves(expert, found and found.calibration, place, len(session.experts))
        scale = session.guidance if guidance is None else guidance
        grams = GuidedGrams(expert.grams, 1.0 if scale is None else scale)
        if aim and not measures:
            decider = _planned(aim, clock, expert, first, grams.guidance)
        else:
            decider = Decider(rule, expert.curves, clock.trajectory, clock.steps)
            decider.predict = predict or "reuse"
            decider.grams = grams if predict is None and expert.grams else None
        together = company.begin(decider, clock, first, label, expert.stack)
        calibrator = company.calibrator(expert.transformer, padding) if measures else None
        mender = Mender(clock.levels(first)) if clock.allows_mending and not bare else None
        run = Run(decider, expert.stack, storage, calibrator, label, together, mender)
        run.warnings += [note] if note else []
        return run

    remove(target)
    experts, missing = find_experts(models, source)
    session = Session(target, scheduler_of, experts, make_run, bare=bare)
    session.finished = automatic.keep if automatic else None
    session.failed, session.branch = company.fail, branch
    attach(session)
    return Applied(session, missing)


def remove(target: Any) -> None:
    """Takes MagCache off a pipeline or transformer; does nothing where there is none."""
    for session in sessions_on(target, [plain_module(model) for model in models_of(target)]):
        session.remove()


def _target(
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
    return Target(speedup, error, keep, start_step, end_step)


def _planned(
    aim: Target, clock: SchedulerClock, expert: Expert, first: Tick, guidance: float
) -> PlannedDecider:
    """Decides the run of one expert, from `first` to where its part of the curve ends."""
    ticks = [tick for tick in clock.ahead(first) if tick.sigma >= expert.until] or [first]
    end = max(clock.end, expert.until)
    sigmas, steps = [tick.sigma for tick in ticks], [tick.step for tick in ticks]
    return PlannedDecider(aim, expert.grams, sigmas, steps, end, clock.steps, guidance)


def _scheduler_source(target: Any, scheduler: Any) -> Callable[[], Any]:
    """Asked anew at each call: a pipeline's scheduler may be exchanged between runs."""
    if scheduler is None and isinstance(target, nn.Module):
        raise TypeError("a bare transformer needs scheduler=, the one it is sampled with")
    return lambda: scheduler if scheduler is not None else target.scheduler


def _source(
    preset: str | Calibration | None,
    calibration: str | Path | Calibration | None,
    calibrate: bool,
    aim: Target | None,
) -> Calibration | None:
    """The curve that is given; None to measure one, or to look for one."""
    if calibrate and not (preset is None and calibration is None and aim is None):
        raise ValueError(
            "calibrate=True measures a new curve: give no preset, calibration, speedup or error"
        )
    if aim and preset is not None:
        raise ValueError(
            "a preset has no Gram curve to plan with: leave it out, and the first sampling is "
            "measured"
        )
    if not calibrate and aim is None and (preset is None) == (calibration is None):
        raise ValueError(
            "give a preset (one of "
            + ", ".join(presets.names())
            + "), a calibration, or a speedup like 2"
        )
    if isinstance(preset, str):
        return presets.load(preset)
    found = Calibration.load(calibration) if isinstance(calibration, str | Path) else calibration
    if aim and found:
        found.check_grams()
    return preset or found
