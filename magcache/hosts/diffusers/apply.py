"""Accelerating diffusers pipelines: `with magcache.apply(pipe, preset="flux") as run: ...`."""

import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from magcache import presets
from magcache.cache import ResidualCache, Store
from magcache.calibration import Calibration, CalibrationError, Calibrator
from magcache.curve import MagnitudeCurve
from magcache.hosts.diffusers.clock import SchedulerClock
from magcache.hosts.diffusers.families import family_of, find_stack
from magcache.plan import Decider
from magcache.predict import Method
from magcache.presets import Preset
from magcache.report import Report
from magcache.rule import Rule
from magcache.run import Run, Storage
from magcache.stack import BlockStack, StackNotFound

log = logging.getLogger("magcache")
HOOK = "magcache"
_RUNS_KEPT = 64  # records of past runs, for the report; they hold no tensors
_COMPONENTS = ("transformer", "transformer_2")
_CURVE_OF_CALL = ("cond", "uncond", "ref")  # pipelines call the conditional branch first


class Applied:
    """MagCache on a pipeline, until `remove` or the end of a `with` block."""

    def __init__(self, hooks: list["_Hook"], missing: str = "") -> None:
        self._hooks = hooks
        self._missing = missing

    def report(self) -> Report:
        """What the last sampling did (all that came since `apply` or `reset`)."""
        runs = [run for hook in self._hooks for run in hook.runs]
        return Report(runs, self._missing)

    def reset(self) -> None:
        """Forgets past runs and frees what they hold."""
        for hook in self._hooks:
            hook.reset()

    def calibration(self) -> Calibration:
        """What a run with `calibrate=True` has measured.

        Raises:
            CalibrationError: No evaluation was measured.
        """
        hook = next((hook for hook in self._hooks if hook.runs), None)
        calibrator = hook.runs[-1].calibrator if hook else None
        if hook is None or calibrator is None or not (branches := calibrator.finish()):
            raise CalibrationError("nothing was measured: apply with calibrate=True, then sample")
        settings = {"host": "diffusers", "steps": hook.runs[-1].decider.steps, **hook.sampler()}
        return Calibration(type(hook.transformer).__name__, branches, settings)

    def remove(self) -> None:
        """Takes MagCache off: the model is as before, and no residual is kept."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> "Applied":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()


class _Hook(ModelHook):
    """diffusers' own extension point around a transformer's forward."""

    def __init__(
        self,
        transformer: nn.Module,
        stack: BlockStack,
        scheduler: Callable[[], Any],
        make_run: Callable[[SchedulerClock, BlockStack], Run],
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.runs: deque[Run] = deque(maxlen=_RUNS_KEPT)
        self._stack = stack
        self._scheduler = scheduler
        self._make_run = make_run
        self._clock: SchedulerClock | None = None
        self._index = -1
        self._calls = 0
        self._was_plain = not hasattr(transformer, "_diffusers_hook")
        HookRegistry.check_if_exists_or_initialize(transformer).register_hook(self, HOOK)

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Runs one model call as a call of the current evaluation."""
        run = self._current_run()
        tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
        branch = (self._calls, *(tuple(tensor.shape) for tensor in tensors))
        curve = _CURVE_OF_CALL[min(self._calls, len(_CURVE_OF_CALL) - 1)]
        self._calls += 1
        forward = self.fn_ref.original_forward
        assert forward is not None  # set by the registry, since there is a new_forward
        try:
            return run.call(branch, curve, tensors[0].device, lambda: forward(*args, **kwargs))
        except BaseException:
            run.close()
            raise

    def _current_run(self) -> Run:
        scheduler = self._scheduler()
        if self._clock is None or not self._clock.of_same_run(scheduler):
            self._start(scheduler)
        assert self._clock is not None
        tick = self._clock.read()
        if tick.index < self._index:
            self._start(scheduler)
        if tick.index != self._index:
            self._index, self._calls = tick.index, 0
            self.runs[-1].begin(tick.sigma, tick.step, tick.last)
        return self.runs[-1]

    def _start(self, scheduler: Any) -> None:
        if self.runs:
            self.runs[-1].close()
        self._clock = SchedulerClock(scheduler)
        self._index = -1
        self.runs.append(self._make_run(self._clock, self._stack))

    def sampler(self) -> dict[str, Any]:
        """What a calibration notes of the scheduler."""
        scheduler = self._scheduler()
        return {"sampler": type(scheduler).__name__, "shift": scheduler.config.get("shift")}

    def reset(self) -> None:
        for run in self.runs:
            run.close()
        self.runs.clear()
        self._clock = None

    def remove(self) -> None:
        for run in self.runs:
            run.close()
        registry = getattr(self.transformer, "_diffusers_hook", None)
        if registry is None or registry.get_hook(HOOK) is not self:
            return
        registry.remove_hook(HOOK, recurse=False)
        if not registry.hooks:
            self._remove_traces()

    def _remove_traces(self) -> None:
        """Removes what the registry leaves on a module that had no hook before."""
        bound = vars(self.transformer).get("forward")
        if getattr(bound, "__func__", None) is type(self.transformer).forward:
            del self.transformer.forward
        if self._was_plain:
            del self.transformer._diffusers_hook


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
    predict: Method = "reuse",
    store: Store = "device",
    dtype: torch.dtype | None = None,
    scheduler: Any = None,
) -> Applied:
    """Puts MagCache on a pipeline or a transformer; a second call replaces the first.

    Args:
        target: A diffusers pipeline, or a transformer together with its `scheduler`.
        preset: A published curve, by name (`magcache.presets.names()`) or as an object.
        calibration: A calibration of this model, as a file or an object, instead of a preset.
        calibrate: Compute everything and measure; `Applied.calibration()` has the result.
        threshold, max_skip, retention, start_step, end_step: Settings of the rule, see
            `magcache.rule.Rule`; None takes the preset's or the calibration's own.
        predict: "reuse" the last residual (the published method), or reuse it "scaled" to the
            curve's magnitude.
        store, dtype: Where and as what residuals are kept, see `magcache.cache.ResidualCache`.
        scheduler: The scheduler that a bare transformer is sampled with.

    Returns:
        A context manager with `report()`, `calibration()`, `remove()`.

    Raises:
        ValueError: A setting is out of range, or preset or calibration are of another model.
        CalibrationError: The calibration file cannot be used.
        TypeError: `target` is neither a pipeline nor a transformer with a scheduler.
    """
    transformers = _transformers(target)
    clock_source = _scheduler_source(target, scheduler)
    storage = Storage(store, dtype, predict)
    ResidualCache(1, store, dtype)  # says at once what is wrong with the two
    source = _source(preset, calibration, calibrate)
    for transformer in transformers:
        _check_fits(source, transformer)
    settings = {"threshold": threshold, "max_skip": max_skip, "retention": retention}
    settings |= {"start_step": start_step, "end_step": end_step}
    rule = source.rule(**settings) if source else Rule(0, 0, 0)
    label = source.name if source else "calibration"
    remove(target)
    hooks, missing = [], []
    for expert, transformer in enumerate(transformers):
        curves = _curves_of_expert(source, expert)

        def make_run(
            clock: SchedulerClock,
            stack: BlockStack,
            curves: dict[str, MagnitudeCurve] = curves,
        ) -> Run:
            decider = Decider(rule, curves, clock.trajectory, clock.steps)
            return Run(decider, stack, storage, Calibrator() if calibrate else None, label)

        try:
            stack = find_stack(transformer)
        except StackNotFound as reason:
            missing.append(f"runs uncached: {reason}")
            log.warning("MagCache: %s", missing[-1])
            continue
        hooks.append(_Hook(transformer, stack, clock_source, make_run))
    return Applied(hooks, "; ".join(missing))


def remove(target: Any) -> None:
    """Takes MagCache off a pipeline or transformer; does nothing where there is none."""
    for transformer in _transformers(target):
        registry = getattr(transformer, "_diffusers_hook", None)
        hook = registry.get_hook(HOOK) if registry else None
        if isinstance(hook, _Hook):
            hook.remove()


def _transformers(target: Any) -> list[nn.Module]:
    found = [target] if isinstance(target, nn.Module) else []
    found = found or [getattr(target, name, None) for name in _COMPONENTS]
    modules = [getattr(m, "_orig_mod", m) for m in found if isinstance(m, nn.Module)]
    if not modules:
        raise TypeError(
            f"{type(target).__name__} is neither a pipeline with a transformer nor a transformer"
        )
    return modules


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


def _check_fits(source: Preset | Calibration | None, transformer: nn.Module) -> None:
    kind, family = type(transformer).__name__, family_of(transformer)
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


def _curves_of_expert(
    source: Preset | Calibration | None, expert: int
) -> dict[str, MagnitudeCurve]:
    """Each expert's own part of a curve with a switch."""
    if source is None:
        return {"cond": MagnitudeCurve((1.0,), (0.0,))}
    curves = source.curves.items()
    return {name: c.part(expert) if c.parts > 1 else c for name, c in curves}
