"""One sampling in ComfyUI, through three of its wrappers.

OUTER_SAMPLE makes the run's state and drops it, PREDICT_NOISE is called once an evaluation, and
APPLY_MODEL once a model call. The state lives in the options of that one sampling; on the model
there are the settings and the three functions below, which hold nothing.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...cache import Store
from ...calibration import Calibration, Calibrator, Measurement
from ...curve import MagnitudeCurve, Trajectory
from ...families import find_stack
from ...plan import Decider
from ...presets import Preset
from ...report import Report
from ...rule import Rule
from ...run import Run, Storage
from ...stack import BlockStack, Call, StackNotFound
from .families import FAMILIES

log = logging.getLogger("magcache")
SETTINGS = "magcache"
STATE = "magcache_sampling"
_GRID = 1000  # points at which the whole trajectory is known where a run samples a part of it
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Settings:
    """What a node asks for. Kept in `model_options`, which ComfyUI copies: no tensors here.

    Attributes:
        source: The curve, None to calibrate.
        rule: Settings of the rule.
        store: Where residuals are kept.
        verbose: Log every evaluation.
        label: What the log calls it.
        finished: Called with the report at the end of a run.
    """

    source: Preset | Calibration | None
    rule: Rule
    store: Store = "device"
    verbose: bool = False
    label: str = ""
    finished: Callable[["Sampling"], None] | None = None


class Sampling:
    """The state of one sampling: which evaluation and call it is in, and a run a network.

    There is one network, or one a device where ComfyUI samples on several: their runs decide
    alike, since they see the same σ.
    """

    def __init__(self, settings: Settings, patcher: Any, sigmas: torch.Tensor) -> None:
        self.settings = settings
        self.patcher = patcher
        self.missing = ""
        self._sigmas = [float(sigma) for sigma in sigmas]
        self._trajectory = _trajectory(patcher.get_model_object("model_sampling"), self._sigmas)
        self._now = (self._sigmas[0], 0)
        self._runs: dict[nn.Module, Run] = {}
        self._calls: dict[nn.Module, int] = {}

    def report(self) -> Report:
        """What the sampling has done so far."""
        return Report(list(self._runs.values())[:1], self.missing)

    @property
    def steps(self) -> int:
        """Steps of this sampling."""
        return max(1, len(self._sigmas) - 1)

    def measured(self) -> dict[str, Measurement]:
        """What a calibrating sampling has measured, a branch."""
        calibrators = [run.calibrator for run in self._runs.values() if run.calibrator]
        return calibrators[0].finish() if calibrators else {}

    def begin(self, timestep: torch.Tensor) -> None:
        """Starts an evaluation; samplers may evaluate between the steps' σ."""
        sigma = float(timestep.flatten()[0])
        starts = self._sigmas[:-1] or self._sigmas
        step = sum(sigma <= start * (1 + _TOLERANCE) for start in starts) - 1
        self._now = sigma, max(step, 0)
        self._calls.clear()
        for run in self._runs.values():
            self._begin(run)

    def call(
        self, network: nn.Module, options: dict[str, Any], x: torch.Tensor, forward: Call
    ) -> Any:
        """Runs one model call. Its branch: its place in the evaluation, and its conditions."""
        run = self._run(getattr(network, "_orig_mod", network))
        if run is None:
            return forward()
        ordinal = self._calls.get(network, 0)
        self._calls[network] = ordinal + 1
        window = getattr(options.get("context_window"), "index_list", None)
        branch = (ordinal, str(window), *options.get("uuids", ()), *x.shape)
        # 1 stands for the unconditional branch; guiders may number more than two.
        kinds = options.get("cond_or_uncond") or (0,)
        curves = tuple("uncond" if kind == 1 else "cond" for kind in kinds)
        return run.call(branch, curves, x.device, forward)

    def close(self) -> None:
        """Frees every residual."""
        for run in self._runs.values():
            run.close()

    def _run(self, network: nn.Module) -> Run | None:
        if network not in self._runs and not self.missing:
            try:
                self._runs[network] = self._start(find_stack(network, FAMILIES))
            except StackNotFound as reason:
                self.missing = f"runs uncached: {reason}"
                log.warning("MagCache: %s", self.missing)
        return self._runs.get(network)

    def _start(self, stack: BlockStack) -> Run:
        decider = Decider(self.settings.rule, self._curves(), self._trajectory, self.steps)
        calibrator = Calibrator() if self.settings.source is None else None
        storage = Storage(self.settings.store)
        run = Run(decider, stack, storage, calibrator, self.settings.label)
        self._begin(run)
        return run

    def _begin(self, run: Run) -> None:
        reason = run.begin(*self._now)
        if self.settings.verbose:
            number, sigma = len(run.evaluations), self._now[0]
            log.info("MagCache: evaluation %d, sigma %.4f: %s", number, sigma, reason.value)

    def _curves(self) -> dict[str, MagnitudeCurve]:
        source = self.settings.source
        if source is None:
            return {"cond": MagnitudeCurve((1.0,), (0.0,))}
        # A sampler of Wan 2.2 runs one expert: the one in whose range it starts.
        return {name: c.part(c.part_at(self._sigmas[0])) for name, c in source.curves.items()}


def _trajectory(model_sampling: Any, sigmas: list[float]) -> Trajectory:
    """The whole trajectory: the run's own σ where it is undivided, else the model's."""
    top = float(model_sampling.percent_to_sigma(0.0))
    top = min(top, float(model_sampling.sigma_max))
    undivided = sigmas[0] >= top * (1 - _TOLERANCE) and sigmas[-1] <= top * _TOLERANCE
    steps = sigmas[:-1] if len(sigmas) > 1 else sigmas
    if undivided and sorted(steps, reverse=True) == steps:
        return Trajectory(tuple(steps))
    grid = (float(model_sampling.percent_to_sigma(i / _GRID)) for i in range(_GRID))
    return Trajectory(tuple(min(sigma, top) for sigma in grid))


def install(model: Any, settings: Settings) -> Any:
    """A clone of a ModelPatcher with MagCache on it, in place of an earlier one."""
    wrappers = {
        "outer_sample": _outer_sample,
        "predict_noise": _predict_noise,
        "apply_model": _apply_model,
    }
    model = model.clone()
    for kind, wrapper in wrappers.items():
        model.remove_wrappers_with_key(kind, SETTINGS)
        model.add_wrapper_with_key(kind, SETTINGS, wrapper)
    options = model.model_options.setdefault("transformer_options", {})
    model.model_options["transformer_options"] = {**options, SETTINGS: settings}
    return model


def _outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    guider = executor.class_obj
    kept = guider.model_options
    options = kept["transformer_options"]
    if "easycache" in options:
        log.warning(
            "MagCache: EasyCache or LazyCache is on the same model; remove one of the two, "
            "their errors add up and neither can tell what it is worth"
        )
    sampling = Sampling(options[SETTINGS], guider.model_patcher, args[3])
    try:
        wrappers = dict(options.get("wrappers", {}))
        if calls := dict(wrappers.get("apply_model", {})):
            # Innermost, so that a compile wrapper outside finds the blocks that it exchanges.
            calls[SETTINGS] = calls.pop(SETTINGS)
            wrappers["apply_model"] = calls
        state = {**options, "wrappers": wrappers, STATE: sampling}
        guider.model_options = {**kept, "transformer_options": state}
        output = executor(*args, **kwargs)
        _finish(sampling)
        return output
    finally:
        guider.model_options = kept
        sampling.close()


def _finish(sampling: Sampling) -> None:
    log.info("%s", sampling.report().headline())
    for warning in sampling.report().warnings:
        log.info("MagCache: %s", warning)
    if sampling.settings.finished:
        sampling.settings.finished(sampling)


def _predict_noise(executor: Any, *args: Any, **kwargs: Any) -> Any:
    model_options = args[2] if len(args) > 2 else kwargs.get("model_options", {})
    sampling = model_options.get("transformer_options", {}).get(STATE)
    if sampling is not None:
        sampling.begin(args[1])
    return executor(*args, **kwargs)


def _apply_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
    options = args[5] if len(args) > 5 else kwargs.get("transformer_options", {})
    sampling = options.get(STATE)
    if sampling is None:
        return executor(*args, **kwargs)
    network = executor.class_obj.diffusion_model
    return sampling.call(network, options, args[0], lambda: executor(*args, **kwargs))
