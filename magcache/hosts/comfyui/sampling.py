"""One sampling in ComfyUI, through three of its wrappers.

OUTER_SAMPLE makes the run's state and drops it, PREDICT_NOISE is called once an evaluation, and
APPLY_MODEL once a model call. The state lives in the options of that one sampling; on the model
there are the settings and the three functions below, which hold nothing.
"""

import logging
from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from ...blocks import (
    Call,
    ModelOutput,
    OutputCall,
    Place,
    StackNotFound,
    find_stack,
    plain_module,
)
from ...calibrate import Calibrator
from ...curves import Measurement, Notebook, Trajectory
from ...decide import Course, Decider, Mender, decider_for
from ...report import Report, report_of
from ...run import Run, Storage
from .. import sampled_with
from . import calibrations, compile, host, outputs, trajectory
from .models import FAMILIES
from .settings import SETTINGS, Settings, settings_on
from .start import Start
from .watch import Progress, Watch

log = logging.getLogger("magcache")
STATE = "magcache_sampling"
_OTHER_CACHE = "easycache"  # where ComfyUI's EasyCache and LazyCache keep their state
_TOLERANCE = 1e-3
_OUTPUT = "output"  # the run of all networks together
_USUAL_CFG = 3.0  # of a guider that has no scale of its own


class Sampling:
    """The state of one sampling: which evaluation and call it is in, and a run a network.

    There is one network, or one a device where ComfyUI samples on several: their runs decide
    alike, since they see the same σ.

    Attributes:
        made_with: Sampler, guidance, noise levels and so on, see `host.described`.
        mends: Whether the sampler allows gaps to be mended.
        missing: Why nothing is cached or measured.
        progress: Shows on the node how far it is.
    """

    def __init__(
        self,
        settings: Settings,
        patcher: Any,
        sigmas: torch.Tensor,
        made_with: dict[str, Any],
        mends: bool,
    ) -> None:
        self.settings = settings
        self.patcher = patcher
        self.made_with = made_with
        self.mends = mends
        self.missing = ""
        self._compiled: dict[nn.Module, dict[str, nn.Module]] = {}
        self._sigmas = [float(sigma) for sigma in sigmas]
        self._model_sampling = patcher.get_model_object("model_sampling")
        self._now = (self._sigmas[0], 0)
        self._ranges: list[tuple[float, float]] | None = None
        self._acting: tuple[bool, ...] = ()
        self._fresh = False
        self._runs: dict[Hashable, Run] = {}
        self._calls: dict[Hashable, int] = {}
        self.progress = Progress(settings.watch, self._levels[: self.steps])

    def report(self) -> Report:
        """What the sampling has done so far."""
        watch = self.settings.watch
        told = {"asked": watch.asked} if watch else {}
        told["sampling"] = sampled_with({**self.made_with, "steps": self.steps})
        return report_of(list(self._runs.values())[:1], self.missing, told)

    @property
    def steps(self) -> int:
        """Steps of this sampling."""
        return max(1, len(self._sigmas) - 1)

    def measured(self) -> dict[str, Measurement]:
        """What a calibrating sampling has measured, a branch."""
        calibrators = [run.calibrator for run in self._runs.values() if run.calibrator]
        return calibrators[0].finish() if calibrators else {}

    def begin(self, timestep: torch.Tensor, conds: Any = None) -> None:
        """Starts an evaluation; samplers may evaluate between the steps' σ."""
        sigma = float(timestep.flatten()[0])
        if self.settings.at_output:
            self._begin_at_output(sigma, conds)
        starts = self._sigmas[:-1] or self._sigmas
        step = sum(sigma <= start * (1 + _TOLERANCE) for start in starts) - 1
        step = max(step, 0)
        self._now = sigma, step
        self._calls.clear()
        for run in self._runs.values():
            self._begin(run)
        self.progress.evaluation(next(iter(self._runs.values()), None), step, self.missing)

    def call(
        self,
        network: nn.Module,
        options: dict[str, Any],
        x: torch.Tensor,
        controlled: bool,
        forward: Call,
    ) -> Any:
        """Runs one model call. Its branch: its place in the evaluation, and its conditions.

        A ControlNet's hints are part of the residual and may end in mid-run.
        """
        run = self._run(plain_module(network))
        if run is None:
            return forward()
        ordinal = self._calls.get(network, 0)
        self._calls[network] = ordinal + 1
        window = getattr(options.get("context_window"), "index_list", None)
        branch = (ordinal, str(window), controlled, *options.get("uuids", ()), *x.shape)
        # 1 stands for the unconditional branch; guiders may number more than two.
        kinds = options.get("cond_or_uncond") or (0,)
        curves = tuple("uncond" if kind == 1 else "cond" for kind in kinds)
        return run.call(branch, curves, x.device, forward)

    def call_output(
        self, parts: Mapping[Hashable, tuple[str, ...]], x: torch.Tensor, call: OutputCall
    ) -> Any:
        """Runs one call for the conditions of an evaluation; guiders may make several."""
        run = self._runs.get(_OUTPUT)
        if run is None:
            return call()
        ordinal = self._calls.get(_OUTPUT, 0)
        self._calls[_OUTPUT] = ordinal + 1
        own: dict[Hashable, tuple[str, ...]] = {(ordinal, p): c for p, c in parts.items()}
        return run.call_parts(own, x.device, call)

    def by_blocks(self, model: Any) -> AbstractContextManager[None]:
        """Has a model that is compiled as a whole run block by block for one call.

        In one graph, every way of tapping and skipping would be another graph of the whole
        model: tried, 17 graphs and a multiple of the time.
        """
        whole = model.diffusion_model
        settings = self.patcher.model_options.get("torch_compile_kwargs")
        asked = self.settings.asked
        taps = asked is None or not asked.skips_nothing
        if self.missing or self.settings.at_output or not (hasattr(whole, "_orig_mod") and taps):
            return nullcontext()
        if whole not in self._compiled:
            self._compiled[whole] = compile.compiled_blocks(whole, settings) if settings else {}
            if self._compiled[whole]:
                log.info("MagCache: the model is compiled block by block, not as a whole")
            else:
                log.warning(
                    "MagCache: the model is compiled as a whole: computing and skipping are "
                    "graphs of their own, which takes long; use Compile Model instead"
                )
        blocks = self._compiled[whole]
        return compile.by_blocks(model, blocks) if blocks else nullcontext()

    def step_aside(self, reason: str) -> None:
        """Caches and measures nothing, with one warning."""
        self.missing = f"runs uncached: {reason}"
        log.warning("MagCache: %s", self.missing)

    def learn(self) -> None:
        """Keeps what the sampling has taught of its model."""
        run = self._runs.get(_OUTPUT)
        if run and (lessons := run.lessons()):
            self._notebook.add(lessons)

    @cached_property
    def _notebook(self) -> Notebook:
        return calibrations.notebook(self.patcher)

    def close(self) -> None:
        """Frees every residual."""
        for run in self._runs.values():
            run.close()

    def _run(self, network: nn.Module) -> Run | None:
        if network not in self._runs and not self.missing:
            try:
                self._runs[network] = self._start(find_stack(network, FAMILIES))
            except StackNotFound as reason:
                self.step_aside(str(reason))
        return self._runs.get(network)

    def _begin_at_output(self, sigma: float, conds: Any) -> None:
        """Looks whether something begins or ends here, and makes the run where there is none."""
        if self._ranges is None:
            self._ranges = outputs.ranges(conds)
        before, self._acting = self._acting, self._acting_at(sigma)
        self._fresh = before != self._acting
        if _OUTPUT not in self._runs and not self.missing:
            self._runs[_OUTPUT] = self._start(ModelOutput(), begin=False)

    def _acting_at(self, sigma: float) -> tuple[bool, ...]:
        return tuple(low <= sigma <= high for high, low in self._ranges or ())

    def _start(self, stack: Place, begin: bool = True) -> Run:
        asked, steps = self.settings.asked, range(self.steps)
        if asked and not any(asked.window.allows(step, self.steps) for step in steps):
            log.warning(
                "MagCache: start_step %d to end_step %d leaves none of the %d steps in which "
                "skipping is allowed: nothing is skipped",
                asked.window.start_step, asked.window.end_step, self.steps,
            )  # fmt: skip
        storage = Storage(self.settings.store)
        mender = Mender(self._levels) if self.mends else None
        calibrator = None if asked else Calibrator()
        run = Run(self._decider(), stack, storage, calibrator, self.settings.label, mender=mender)
        run.warnings += [self.settings.note] if self.settings.note else []
        if begin:
            self._begin(run)
        return run

    @property
    def _levels(self) -> list[float]:
        """The noise levels that curves are over: σ, or the flow's levels."""
        if not self.settings.at_output:
            return self._sigmas
        return [*map(outputs.level_of(self._model_sampling), self._sigmas)]

    def _decider(self) -> Decider:
        asked, source, sigmas = self.settings.asked, self.settings.source, self._levels
        whole = trajectory.whole(self._model_sampling, self._sigmas)
        if self.settings.at_output:
            level = outputs.level_of(self._model_sampling)
            whole = Trajectory(tuple(level(sigma) for sigma in whole.sigmas))
        acting = [self._acting_at(sigma) for sigma in self._sigmas[:-1]]
        fresh = [place for place in range(1, len(acting)) if acting[place] != acting[place - 1]]
        course = Course.of_steps(whole, sigmas[:-1] or sigmas, sigmas[-1], fresh)
        if self.settings.at_output:
            cfg = self.made_with.get("cfg", _USUAL_CFG)
            return decider_for(asked, course, guidance=cfg, learned=self._notebook.read())
        if source is None:
            return decider_for(None, course)
        curves = trajectory.of_expert(source.curves, sigmas)
        grams = trajectory.of_expert(source.grams, sigmas)
        return decider_for(asked, course, curves, grams, self.made_with.get("cfg", 1.0))

    def _begin(self, run: Run) -> None:
        sigma, step = self._now
        level = None
        if self.settings.at_output and not outputs.is_flow(self._model_sampling):
            level = outputs.level_of(self._model_sampling)(sigma)
        reason = run.begin(sigma, step, fresh=self._fresh, level=level)
        if self.settings.verbose:
            number, sigma = len(run.evaluations), self._now[0]
            log.info("MagCache: evaluation %d, sigma %.4f: %s", number, sigma, reason.value)


def install(model: Any, settings: Settings, watch: Watch | None = None) -> Any:
    """A clone of a ModelPatcher with MagCache on it, in place of an earlier one."""
    settings = replace(settings, watch=watch)
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
    patcher = guider.model_patcher
    settings = options.get(SETTINGS) or settings_on(patcher)  # a guider may have its own options
    if settings is None:
        return executor(*args, **kwargs)
    noise, _, sampler, sigmas, *more = args
    shape, mask = tuple(noise.shape), more[0] if more else kwargs.get("denoise_mask")
    made_with = host.described(guider, sampler, sigmas, shape)
    if settings.choose:
        start = Start(guider.conds, shape, mask, made_with)
        settings = replace(settings.choose(patcher, start), watch=settings.watch)
    flow = settings.at_output or outputs.is_flow(patcher.get_model_object("model_sampling"))
    mends = flow and host.is_plain_euler(sampler)
    sampling = Sampling(settings, patcher, sigmas, made_with, mends)
    other = options.get(_OTHER_CACHE)
    if other is not None:
        name = getattr(other, "name", type(other).__name__)
        sampling.step_aside(f"{name} is on the same model and does the work; remove one of them")
    try:
        state = {**options, "wrappers": _innermost(options.get("wrappers", {})), STATE: sampling}
        guider.model_options = {**kept, "transformer_options": state}
        if settings.at_output:
            handler = outputs.Handler(sampling.call_output, kept.get("context_handler"))
            guider.model_options["context_handler"] = handler
        output = executor(*args, **kwargs)
        _finish(sampling)
        return output
    except BaseException:
        sampling.progress.stopped()
        raise
    finally:
        guider.model_options = kept
        sampling.close()


def _innermost(wrappers: dict[str, Any]) -> dict[str, Any]:
    """The wrappers, MagCache's own last: one outside may exchange blocks, as compiling does."""
    calls = dict(wrappers.get("apply_model", {}))
    if SETTINGS not in calls:
        return wrappers
    calls[SETTINGS] = calls.pop(SETTINGS)
    return {**wrappers, "apply_model": calls}


def _finish(sampling: Sampling) -> None:
    sampling.learn()
    report = sampling.report()
    log.info("%s", report.headline())
    for warning in report.warnings:
        if warning != sampling.missing:  # the headline says it
            log.info("MagCache: %s", warning)
    if watch := sampling.settings.watch:
        watch.keep(report)
    if sampling.settings.finished:
        sampling.settings.finished(sampling)


def _predict_noise(executor: Any, x: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
    model_options = args[0] if args else kwargs.get("model_options", {})
    sampling = model_options.get("transformer_options", {}).get(STATE)
    if sampling is not None:
        sampling.begin(timestep, executor.class_obj.conds)
    return executor(x, timestep, *args, **kwargs)


def _apply_model(executor: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    # Behind x: t, c_concat, c_crossattn, control, transformer_options.
    options = args[4] if len(args) > 4 else kwargs.get("transformer_options", {})
    sampling = options.get(STATE)
    if sampling is None or sampling.settings.at_output:
        return executor(x, *args, **kwargs)
    model = executor.class_obj
    control = args[3] if len(args) > 3 else kwargs.get("control")
    forward = partial(executor, x, *args, **kwargs)
    with sampling.by_blocks(model):
        network = model.diffusion_model
        return sampling.call(network, options, x, control is not None, forward)
