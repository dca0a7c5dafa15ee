"""The state of one sampling in ComfyUI: its current evaluation and call, and a `Run` per network.

There are two kinds, because two things can be cached: the residual of the blocks, for each model
call, or the model's output, once for all conditions of an evaluation.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ...blocks import (
    ModelOutput,
    OutputCall,
    Path,
    Place,
    StackNotFound,
    find_stack,
    plain_module,
)
from ...calibrate import Calibrator
from ...curves import Measurement, Notebook, Trajectory
from ...decide import Course, Decider, Mender, decider_for
from ...report import Report, report_of
from ...run import Run, Stopwatch, Storage
from .. import sampled_with
from . import calibrations, compile, outputs, trajectory
from .models import FAMILIES
from .settings import Settings
from .watch import Progress

log = logging.getLogger("magcache")
_TOLERANCE = 1e-3
_OUTPUT = "output"  # key of the run for all networks together
_CFG_PP = "cfg_pp"  # in the names of CFG++ samplers
_NOT_WHOLE = (
    "the model's calls changed during the run (moving context windows, a ControlNet that ends, "
    "prompts split for lack of memory), so it was not measured: measure without that"
)
_MOVING = (
    "the context windows move from step to step, so little can be skipped: choose the context "
    "schedule standard_static, or use the node MagCache"
)
_IN_FRONT = "the MagCache node in front of this one has no effect: remove one of the two"
_USUAL_CFG = 3.0  # for guiders without a scale


class Sampling(ABC):
    """The state of one sampling.

    There is one network, or one per device if ComfyUI samples on several. Their runs make the same
    decisions, because they see the same σ.

    Args:
        settings: The node's settings.
        patcher: The model's ModelPatcher.
        sigmas: Noise levels of the sampling, including the final one, (T + 1,).
        made_with: Sampler, guidance, noise levels and so on, see `host.described`.
        euler: Whether the sampler is Euler's method without added noise.

    Attributes:
        missing: Why nothing is cached or measured; "" otherwise.
        progress: Shows the progress on the node.
    """

    def __init__(
        self,
        settings: Settings,
        patcher: Any,
        sigmas: torch.Tensor,
        made_with: dict[str, Any],
        euler: bool,
    ) -> None:
        self.settings = settings
        self.patcher = patcher
        self.made_with = made_with
        self.missing = ""
        self._model_sampling = patcher.get_model_object("model_sampling")
        self._sigmas = [float(sigma) for sigma in sigmas]
        self._levels = [*map(self._level, self._sigmas)]
        self._euler = euler
        self._mends = euler and self._follows_flow
        self._now = (self._sigmas[0], 0)
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
        """What a calibrating sampling has measured of each branch from start to end."""
        for run in self._runs.values():
            if run.calibrator:
                found, count = run.calibrator.finish(), len(run.evaluations)
                return {name: each for name, each in found.items() if len(each.sigmas) == count}
        return {}

    def options(self, kept: dict[str, Any]) -> dict[str, Any]:
        """What to add to a guider's model options `kept` for this sampling."""
        return {}

    def begin(self, x: torch.Tensor, sigma: float, conds: Any = None) -> None:
        """Starts an evaluation; samplers may evaluate between the steps' σ.

        Args:
            x: The sampler's latent.
            sigma: Its noise level.
            conds: The list of conditions for each name, such as "positive".
        """
        self._watch = Stopwatch(x.device)
        starts = self._sigmas[:-1] or self._sigmas
        step = sum(sigma <= start * (1 + _TOLERANCE) for start in starts) - 1
        self._now = sigma, max(step, 0)
        self._calls.clear()
        self._begin_all(conds)
        self.progress.evaluation(next(iter(self._runs.values()), None), max(step, 0), self.missing)

    def end(self, denoised: torch.Tensor) -> None:
        """Ends an evaluation, which returns a denoised latent to the sampler."""
        self._watch.stop()
        for run in self._runs.values():
            run.took(self._watch)

    @abstractmethod
    def run_model(
        self, model: Any, x: torch.Tensor, options: dict[str, Any], controlled: bool, forward: Any
    ) -> Any:
        """Runs one call of ComfyUI's model.

        Args:
            model: ComfyUI's BaseModel.
            x: Its noisy input.
            options: Its transformer options.
            controlled: Whether a ControlNet gives hints.
            forward: The call with its arguments bound.
        """

    def step_aside(self, reason: str) -> None:
        """Caches and measures nothing in this sampling, and warns once."""
        self.missing = f"runs uncached: {reason}"
        log.warning("MagCache: %s", self.missing)

    def notes(self) -> list[str]:
        """The report's notes on the curve and the decisions, without the warnings."""
        runs = list(self._runs.values())[:1]
        found = [self.settings.note, *(note for run in runs for note in run.decider.notes)]
        return [note for note in found if note]

    def tell_more(self, text: str) -> None:
        """Logs details that are shown with `verbose`, or with ComfyUI's own --verbose."""
        log.log(logging.INFO if self.settings.verbose else logging.DEBUG, "MagCache: %s", text)

    def learn(self) -> None:  # noqa: B027 - optional
        """Stores what the sampling has taught about its model."""

    def close(self) -> None:
        """Frees every residual."""
        for run in self._runs.values():
            run.close()

    @property
    def _follows_flow(self) -> bool:
        """Whether what is cached moves the sample as a flow's velocity does."""
        return outputs.is_flow(self._model_sampling)

    def _level(self, sigma: float) -> float:
        """The noise level that curves use: σ, or the flow's level."""
        return sigma

    @abstractmethod
    def _decider(self) -> Decider:
        """Makes the decider of the sampling."""

    def _begin_all(self, conds: Any) -> None:
        for run in self._runs.values():
            self._begin(run)

    def _begin(self, run: Run, fresh: bool = False, level: float | None = None) -> None:
        sigma, step = self._now
        reason = run.begin(sigma, step, fresh=fresh, level=level)
        self.tell_more(f"evaluation {len(run.evaluations)}, sigma {sigma:.4f}: {reason.value}")

    def _start(self, place: Place) -> Run:
        """Makes a run."""
        asked, steps = self.settings.asked, range(self.steps)
        if asked and not any(asked.window.allows(step, self.steps) for step in steps):
            log.warning(
                "MagCache: start_step %d to end_step %d leaves none of the %d steps to skip: "
                "choose a wider range",
                asked.window.start_step, asked.window.end_step, self.steps,
            )  # fmt: skip
        storage = Storage(self.settings.store)
        mender = Mender(self._levels) if self._mends else None
        calibrator = None if asked else Calibrator()
        run = Run(self._decider(), place, storage, calibrator, self.settings.label, mender=mender)
        run.warnings += [self.settings.note] if self.settings.note else []
        if self.settings.watch and self.settings.watch.replaces:
            run.warn(_IN_FRONT)
        return run


class BlockSampling(Sampling):
    """Caches what the blocks add, separately for each model call."""

    def __init__(self, *asked: Any) -> None:
        super().__init__(*asked)
        self._compiled: dict[nn.Module, dict[str, nn.Module]] = {}
        self._windows: dict[int, set[str]] = {}

    def run_model(
        self, model: Any, x: torch.Tensor, options: dict[str, Any], controlled: bool, forward: Any
    ) -> Any:
        """See `Sampling`. The branch of a call is its place in the evaluation and its conditions.

        A ControlNet's hints are part of the residual, and may end during the run.
        """
        with self._by_blocks(model):
            network = model.diffusion_model
            run = self._run(plain_module(network))
            if run is None:
                return forward()
            ordinal = self._calls.get(network, 0)
            self._calls[network] = ordinal + 1
            window = str(getattr(options.get("context_window"), "index_list", None))
            self._see_window(run, window)
            branch = (ordinal, window, controlled, *options.get("uuids", ()), *x.shape)
            # 1 is the unconditional branch; guiders may have more than two.
            kinds = options.get("cond_or_uncond") or (0,)
            curves = tuple("uncond" if kind == 1 else "cond" for kind in kinds)
            return run.call(branch, curves, x.device, forward)

    def learn(self) -> None:
        """See `Sampling`. Warns if something was not measured from start to end."""
        for run in self._runs.values():
            measured = run.calibrator.ratios().values() if run.calibrator else ()
            if any(len(ratios) < len(run.evaluations) for ratios in measured):
                run.warn(_NOT_WHOLE)

    def _see_window(self, run: Run, window: str) -> None:
        """Warns if context windows move: what is cached for one does not fit another."""
        now = len(run.evaluations)
        before = self._windows.get(now - 1, {window})
        if not (window in before or run.calibrator or run.decider.skips_nothing):
            run.warn(_MOVING)
        self._windows.setdefault(now, set()).add(window)

    def _by_blocks(self, model: Any) -> AbstractContextManager[None]:
        """Runs a model that is compiled as a whole block by block, for one call.

        Otherwise, every way of tapping and skipping needs another graph of the whole model. In a
        test these were 17 graphs, and compiling took several times as long.
        """
        whole = model.diffusion_model
        settings = self.patcher.model_options.get("torch_compile_kwargs")
        asked = self.settings.asked
        taps = asked is None or not asked.skips_nothing
        if self.missing or not (hasattr(whole, "_orig_mod") and taps):
            return nullcontext()
        if whole not in self._compiled:
            self._compiled[whole] = compile.compiled_blocks(whole, settings) if settings else {}
            if self._compiled[whole]:
                self.tell_more("the model is compiled block by block, not as a whole")
            else:
                log.warning(
                    "MagCache: the model is compiled as a whole, so computing and skipping need "
                    "graphs of their own, which takes long: use Compile Model instead"
                )
        blocks = self._compiled[whole]
        return compile.by_blocks(model, blocks) if blocks else nullcontext()

    def _run(self, network: nn.Module) -> Run | None:
        if network not in self._runs and not self.missing:
            try:
                self._runs[network] = self._start(find_stack(network, FAMILIES))
                self._begin(self._runs[network])
            except StackNotFound as reason:
                self.step_aside(str(reason))
        return self._runs.get(network)

    def _decider(self) -> Decider:
        asked, source, sigmas = self.settings.asked, self.settings.source, self._sigmas
        whole = trajectory.whole(self._model_sampling, sigmas)
        course = Course.of_steps(whole, sigmas[:-1] or sigmas, sigmas[-1])
        if source is None:
            return decider_for(None, course)
        curves = trajectory.of_expert(source.curves, sigmas)
        grams = trajectory.of_expert(source.grams, sigmas)
        return decider_for(asked, course, curves, grams, self.made_with.get("cfg", 1.0))


class OutputSampling(Sampling):
    """Caches what the model returns, for all conditions of an evaluation together."""

    def __init__(self, *asked: Any) -> None:
        super().__init__(*asked)
        self._ranges: list[tuple[float, float]] | None = None
        self._acting: tuple[bool, ...] = ()
        self._path = None if self._euler else Path()

    def begin(self, x: torch.Tensor, sigma: float, conds: Any = None) -> None:
        """See `Sampling`."""
        if self._path:
            self._path.begin(x, sigma)
        super().begin(x, sigma, conds)

    def end(self, denoised: torch.Tensor) -> None:
        """See `Sampling`."""
        super().end(denoised)
        if self._path:
            self._path.end(denoised)

    def options(self, kept: dict[str, Any]) -> dict[str, Any]:
        """See `Sampling`."""
        inner = kept.get("context_handler")
        return {"context_handler": outputs.Handler(self._run_conditions, inner, self._path)}

    def run_model(
        self, model: Any, x: torch.Tensor, options: dict[str, Any], controlled: bool, forward: Any
    ) -> Any:
        """See `Sampling`."""
        return forward()

    def learn(self) -> None:
        """See `Sampling`."""
        run = self._runs.get(_OUTPUT)
        if run and (lessons := run.lessons()):
            self._notebook.add(lessons)

    def _run_conditions(
        self, parts: Mapping[Hashable, tuple[str, ...]], x: torch.Tensor, call: OutputCall
    ) -> Any:
        """Runs the conditions of an evaluation; guiders may make several calls."""
        run = self._runs.get(_OUTPUT)
        if run is None:
            return call()
        ordinal = self._calls.get(_OUTPUT, 0)
        self._calls[_OUTPUT] = ordinal + 1
        own: dict[Hashable, tuple[str, ...]] = {(ordinal, p): c for p, c in parts.items()}
        return run.call_parts(own, x.device, call)

    @property
    def _follows_flow(self) -> bool:
        return True

    def _level(self, sigma: float) -> float:
        return outputs.level_of(self._model_sampling)(sigma)

    @cached_property
    def _notebook(self) -> Notebook:
        return calibrations.notebook(self.patcher)

    def _begin_all(self, conds: Any) -> None:
        if self._ranges is None:
            self._ranges = outputs.ranges(conds)
        if _OUTPUT not in self._runs and not self.missing:
            self._runs[_OUTPUT] = self._start(ModelOutput())
        before, self._acting = self._acting, self._acting_at(self._now[0])
        level = None if outputs.is_flow(self._model_sampling) else self._level(self._now[0])
        for run in self._runs.values():
            self._begin(run, before != self._acting, level)

    def _acting_at(self, sigma: float) -> tuple[bool, ...]:
        """Which of the things with a σ range are active at this σ."""
        return tuple(low <= sigma <= high for high, low in self._ranges or ())

    def _decider(self) -> Decider:
        whole = trajectory.whole(self._model_sampling, self._sigmas)
        whole = Trajectory(tuple(map(self._level, whole.sigmas)))
        acting = [self._acting_at(sigma) for sigma in self._sigmas[:-1]]
        fresh = [place for place in range(1, len(acting)) if acting[place] != acting[place - 1]]
        levels = self._levels
        course = Course.of_steps(whole, levels[:-1] or levels, levels[-1], fresh)
        learned = self._notebook.read()
        return decider_for(self.settings.asked, course, guidance=self._guidance, learned=learned)

    @property
    def _guidance(self) -> float:
        """The CFG scale. CFG++ has smaller ones, but always depends on both branches."""
        scale = self.made_with.get("cfg", _USUAL_CFG)
        return max(scale, _USUAL_CFG) if _CFG_PP in self.made_with["sampler"] else scale
