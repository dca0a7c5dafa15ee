"""Accelerates diffusers pipelines: `with magcache.apply(pipe, preset="flux") as run: ...`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ...blocks import Store as Place
from ...blocks import plain_module
from ...curves import Calibration, presets
from ...decide import Target, Window, rule_of
from ...run import Storage
from .asked import Asked
from .experts import check_fits, find_experts, models_of, output_expert
from .hook import attach, sessions_on
from .parallel import Company
from .session import Session


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
    draft: bool = False,
    guidance: float | None = None,
    predict: Literal["reuse"] | None = None,
    store: Place = "device",
    dtype: torch.dtype | None = None,
    budget: int | None = None,
    scheduler: Any = None,
    branch: str | None = None,
    group: Any = None,
    padding: int = 0,
) -> Session:
    """Applies MagCache to a pipeline or a transformer; replaces an earlier one.

    Args:
        target: A diffusers pipeline, whose calls are then accelerated, or the transformer of a
            hand-written loop together with the `scheduler` that gives its σ. With a speed-up or an
            error and no calibration, U-Nets and transformers of any class work too.
        preset, calibration: A published curve, by name or as an object, or a calibration of this
            model, as a file or an object.
        calibrate: Compute everything and measure it; `Session.calibration()` returns the result.
        threshold, max_skip, retention, start_step, end_step: See `magcache.Rule`; None takes the
            curve's recommended value.
        speedup, error, keep, draft: See `Target`; they replace the rule. Without a calibration,
            the model's output is predicted from the prior, the curves of other models.
        guidance: CFG scale, which weights the branches' errors; None takes the pipeline's.
        predict: "reuse" reuses the last residual (the published method). None predicts from the
            last two if a calibration allows it.
        store, dtype, budget: See `magcache.blocks.ResidualCache`.
        scheduler: The scheduler of a hand-written loop; None takes the pipeline's.
        branch, group, padding: For several processes, see `Company`.

    Raises:
        ValueError: A setting is out of range, or the preset or calibration is of another model.
        CalibrationError: The calibration file cannot be used.
        TypeError: `target` is neither a pipeline nor a transformer with a scheduler.
        ParallelError: While sampling, if another process has other settings or has failed.
    """
    window = Window(start_step, end_step)
    rule = {"threshold": threshold, "max_skip": max_skip, "retention": retention}
    planned = _target(rule, speedup, error, keep, window, draft)
    source = _source(preset, calibration, calibrate, planned)
    aim = planned or (source and rule_of(source, window=window, **rule))
    models = models_of(target, at_output=aim is not None and source is None)
    company = Company([plain_module(model) for model in models], branch, group, padding)
    repeats, storage = _repeats(predict, planned), Storage(store, dtype, budget)
    asked = Asked(source, aim, repeats, guidance, storage, company)
    return _put_on(target, scheduler, asked)


def remove(target: Any) -> None:
    """Removes MagCache from a pipeline or transformer; does nothing if there is none."""
    for session in sessions_on(target, models_of(target, at_output=True)):
        session.remove()


def _put_on(target: Any, scheduler: Any, asked: Asked) -> Session:
    models = models_of(target, asked.forecasts)
    scheduler_of = _scheduler_source(target, scheduler)
    for model in models:
        check_fits(asked.source, plain_module(model), len(models))
    bare = isinstance(target, nn.Module) or not callable(target)
    remove(target)
    if asked.forecasts:
        experts, missing = [output_expert(target)], []
    else:
        experts, missing = find_experts(models, asked.source)
    session = Session(target, scheduler_of, experts, missing, asked.run, bare=bare)
    session.failed, session.branch = asked.company.fail, asked.company.branch
    session.ended = asked.learn
    attach(session)
    return session


def _target(
    rule: Mapping[str, Any],
    speedup: float | None,
    error: float | None,
    keep: int,
    window: Window,
    draft: bool,
) -> Target | None:
    """The target to plan for, or None to use the rule."""
    if speedup is None and error is None:
        return None
    given = [name for name, value in rule.items() if value is not None]
    if given:
        raise ValueError(f"speedup and error replace {', '.join(given)}: give one or the other")
    return Target(speedup, error, keep, window, draft)


def _repeats(predict: str | None, planned: Target | None) -> bool:
    """Whether the rule reuses the last residual even if residuals could be predicted."""
    if predict not in (None, "reuse"):
        raise ValueError(f'predict must be "reuse" or None, got {predict!r}')
    return predict == "reuse" and planned is None


def _scheduler_source(target: Any, scheduler: Any) -> Callable[[], Any]:
    """Returns the scheduler. Called at each use, because a pipeline's may be replaced."""
    if scheduler is None and isinstance(target, nn.Module):
        raise TypeError("a bare transformer needs scheduler=, the scheduler that samples it")
    return lambda: scheduler if scheduler is not None else target.scheduler


def _source(
    preset: str | Calibration | None,
    calibration: str | Path | Calibration | None,
    calibrate: bool,
    planned: Target | None,
) -> Calibration | None:
    """The given curve; None to measure one, or to predict from the prior."""
    if calibrate and not (preset is None and calibration is None and planned is None):
        raise ValueError(
            "calibrate=True measures a new curve, so give no preset, calibration, speedup or error"
        )
    if planned and preset is not None:
        raise ValueError(
            "a preset has no Gram curve to plan from: leave it out to predict the model's output "
            "from the prior"
        )
    if not calibrate and planned is None and (preset is None) == (calibration is None):
        raise ValueError(
            "give a preset (one of "
            + ", ".join(presets.names())
            + "), a calibration, or a speedup like 2"
        )
    if isinstance(preset, str):
        return presets.load(preset)
    found = Calibration.load(calibration) if isinstance(calibration, str | Path) else calibration
    if planned and found:
        found.check_grams()
    return preset or found
