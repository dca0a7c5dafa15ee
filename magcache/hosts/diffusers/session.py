"""The runs of one pipeline: assigns each model call to a run and an evaluation."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from types import TracebackType
from typing import Any

import diffusers
import torch
from torch import nn

from ...curves import Calibration, CalibrationError, join
from ...report import Report, RunReport, figures_of
from ...run import Run
from .. import sampled_with
from .clock import SchedulerClock, Tick
from .experts import Expert, known_as, whole_compile
from .outputs import Outputs, Sampled, batch_of, level_of

log = logging.getLogger("magcache")
_RUNS_KEPT = 256  # past runs in the report, as figures only
_SAMPLES = ("hidden_states", "sample")  # argument names of the noisy input
_CURVE_OF_CALL = ("cond", "uncond", "ref")  # in the order in which pipelines call the branches


MakeRun = Callable[["Session", SchedulerClock, Expert, Tick], Run]
"""Makes the run of an expert, starting at a tick of a clock."""


class Session:
    """MagCache on one pipeline, or on one transformer in a hand-written loop.

    It is active until `remove`, or until the end of a `with` block.

    Args:
        target: The pipeline or transformer.
        scheduler: Returns the scheduler. Called at each use, because pipelines may replace it.
        experts: The transformers whose blocks were found.
        missing: Why the others run uncached.
        make_run: Makes the runs.
        bare: Whether the model is called without a surrounding pipeline call.

    Attributes:
        running: The current runs, in the order in which they began.
        past: The latest finished runs, in the same order.
        made_with: Sampler, guidance and so on of the latest run.
        problems: Why something ran uncached.
        begun: Number of runs that the current pipeline call has begun.
        guidance: CFG scale of the pipeline call, or None if unknown.
        ended: Called with an expert and its run after it ended without an error.
        failed: Called with the error that ended a sampling.
        branch: The branch that this process samples, or None if it samples all.
        undo: Removes the session from its target.
    """

    current: ContextVar["Session | None"] = ContextVar("magcache_session", default=None)
    """The session whose pipeline is sampling in this thread."""

    def __init__(
        self,
        target: Any,
        scheduler: Callable[[], Any],
        experts: Sequence[Expert],
        missing: Sequence[str],
        make_run: MakeRun,
        *,
        bare: bool,
    ) -> None:
        self.target = target
        self.bare = bare
        self.experts = list(experts)
        self.running: list[Run] = []
        self.past: deque[RunReport] = deque(maxlen=_RUNS_KEPT)
        self.made_with: dict[str, Any] = {}
        self.problems: list[str] = []
        self.begun = 0
        self.guidance: float | None = None
        self.ended: Callable[[Expert, Run], None] = lambda *_: None
        self.failed: Callable[[BaseException], None] = lambda _: None
        self.branch: str | None = None
        self.undo = ExitStack()
        self.scheduler = scheduler
        self._missing = missing
        self._make_run = make_run
        self._clock: SchedulerClock | None = None
        self._called = False

    @contextmanager
    def sampling(self, guidance: float | None = None) -> Iterator[None]:
        """Surrounds one pipeline call, whose model calls belong to this session."""
        self._called, self.begun, self.guidance = False, 0, guidance
        token = self.current.set(self)
        try:
            yield
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self.current.reset(token)
            self.end()
        if not self._called:
            self._problem(f"{type(self.target).__name__} ran uncached: {self._why_not_called()}")
        elif self.begun:
            log.info(Report(list(self.past)[-self.begun :]).line())

    def expert(self, module: nn.Module) -> Expert:
        """The expert that a model or ControlNet belongs to."""
        return next(e for e in self.experts if e.has(module))

    @property
    def guides(self) -> bool:
        """Whether the pipeline call uses classifier-free guidance, as far as it is known."""
        told = getattr(self.target, "do_classifier_free_guidance", None)
        return bool(told) if told is not None else self.guidance != 1

    def switches(self, clock: SchedulerClock, ticks: Sequence[Tick]) -> list[int]:
        """The places in `ticks` at which a second model takes over."""
        ratio = getattr(getattr(self.target, "config", None), "boundary_ratio", None)
        if ratio is None or getattr(self.target, "transformer_2", None) is None:
            return []
        below = clock.first_below(ratio) - ticks[0].index
        return [below] if 0 < below < len(ticks) else []

    def call(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        forward: Callable[[], Any],
    ) -> Any:
        """Runs one call of a model or a ControlNet as a call of the current evaluation."""
        expert = self.expert(module)
        controls = module in expert.controlnets
        model = expert.transformer if controls else module
        strength = kwargs.get("conditioning_scale") if controls else None
        self._called |= not controls
        if expert.outputs is None and (compiled := whole_compile(module)):
            self._problem(f"runs uncached: {compiled}")
            return forward()
        run = self._run_of_call(expert, model, expert.timestep(args, kwargs), strength)
        if run is None:
            return expert.stack.plain(forward)
        try:
            inputs = (*args, *kwargs.values())
            if expert.outputs and controls:
                return expert.outputs.control(run, inputs, forward)
            if expert.outputs:
                named = (kwargs[name] for name in _SAMPLES if name in kwargs)
                return self._output(expert.outputs, run, (*named, *inputs), forward)
            return self._blocks(expert, run, inputs, forward)
        except BaseException as error:
            self._fail(error)
            raise

    def _blocks(
        self, expert: Expert, run: Run, inputs: Sequence[Any], forward: Callable[[], Any]
    ) -> Any:
        tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
        branch = (expert.calls, *(tuple(tensor.shape) for tensor in tensors))
        curve = _CURVE_OF_CALL[min(expert.calls, len(_CURVE_OF_CALL) - 1)]
        expert.calls += 1
        return run.call(branch, self.branch or curve, tensors[0].device, forward)

    def _output(
        self, outputs: Outputs, run: Run, inputs: Sequence[Any], forward: Callable[[], Any]
    ) -> Any:
        x = next(found for value in inputs if (found := batch_of(value)) is not None)
        guides, sigma = self.guides and not self.bare, run.evaluations[-1].sigma
        guidance = None if self.bare else self.guidance if guides else 1.0
        sampled = Sampled.by(self.scheduler(), sigma, guides, guidance)
        return outputs.call(run, x, sampled, forward)

    def described(self, steps: int) -> dict[str, Any]:
        """The settings of a run, under the names that calibrations use."""
        scheduler = self.scheduler()
        return {
            "host": f"diffusers {diffusers.__version__}",
            "steps": steps,
            "sampler": type(scheduler).__name__,
            "shift": scheduler.config.get("shift"),
            "cfg": self.guidance,
        }

    def report(self) -> Report:
        """What the session has done since `apply` or `reset`."""
        runs = [*self.past, *map(figures_of, self.running)]
        told = {"sampling": sampled_with(self.made_with)} if self.made_with else {}
        return Report(runs, "; ".join([*self._missing, *self.problems]), told)

    def end(self) -> None:
        """Ends the runs and frees every residual; the next call begins a new run."""
        self._end_runs()
        self._clock = None

    def calibration(self) -> Calibration:
        """The calibration from the last run that was measured.

        Raises:
            CalibrationError: Nothing was measured, or the measurement cannot be used.
        """
        calibrators = [expert.calibrator for expert in self.experts if expert.calibrator]
        measured = [found for each in calibrators if (found := each.finish())]
        if not measured:
            raise CalibrationError("nothing was measured: apply with calibrate=True, then sample")
        branches, switch_at = join(*measured) if len(measured) == 2 else (measured[0], None)
        transformers = [expert.transformer for expert in self.experts]
        return Calibration(
            model=type(transformers[0]).__name__,
            branches=branches,
            settings=self.made_with,
            switch_at=switch_at,
            identity=asdict(known_as(transformers)),
        )

    def remove(self) -> None:
        """Removes MagCache, restores the model and frees every residual."""
        self.undo.close()
        self.end()

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._fail(error)
        self.remove()

    def reset(self) -> None:
        """Forgets past runs and frees what they hold."""
        self.end()
        for expert in self.experts:
            expert.stack.problem = None
            expert.calibrator = None
        self.past.clear()
        self.problems.clear()

    def _run_of_call(
        self,
        expert: Expert,
        model: nn.Module,
        timestep: torch.Tensor | None,
        strength: Any,
    ) -> Run | None:
        scheduler = self.scheduler()
        if self._clock is None or not self._clock.of_same_run(scheduler):
            self.end()
            try:
                self._clock = SchedulerClock(scheduler, timestep)
            except (AttributeError, TypeError, ValueError) as error:
                self._problem(f"{type(scheduler).__name__} cannot be followed: {error}")
                return None
        tick = self._clock.read(timestep)
        if tick is None or (expert.run is None and expert.stack.problem):
            return None  # after the end, or the model has turned out not to fit
        if expert.run is None or tick.index < expert.index:
            expert.run = self._begin_run(expert, self._clock, tick)
        if tick.index != expert.index:
            self._begin(expert, model, expert.run, tick, strength)
        return expert.run

    def _fail(self, error: BaseException) -> None:
        self.failed(error)
        for expert in self.experts:
            expert.close()
            expert.run = None
        self.end()

    def _end_runs(self) -> None:
        for expert in self.experts:
            if expert.run:
                self.ended(expert, expert.run)
            expert.close()
            expert.run = None
        self.past.extend(map(figures_of, self.running))
        self.running.clear()

    def _begin_run(self, expert: Expert, clock: SchedulerClock, tick: Tick) -> Run:
        if expert.run is not None:  # the sampling has started again
            self._end_runs()
        run = self._make_run(self, clock, expert, tick)
        expert.calibrator, expert.index, expert.active = run.calibrator, -1, None
        self.made_with = self.described(clock.steps)
        self.running.append(run)
        self.begun += 1
        return run

    def _begin(self, expert: Expert, model: nn.Module, run: Run, tick: Tick, strength: Any) -> None:
        for other in self.experts:
            if other is not expert and other.index < tick.index:
                other.close()  # its turn is over
        fresh, level = expert.active is not None and expert.active is not model, None
        expert.index, expert.calls, expert.active = tick.index, 0, model
        if expert.outputs:
            assert self._clock is not None
            fresh |= expert.outputs.begin(self._clock.steps_ratio(tick), strength)
            level = level_of(self.scheduler(), tick.sigma)
        run.begin(tick.sigma, tick.step, tick.last, fresh, level)

    def _why_not_called(self) -> str:
        components = vars(self.target).values()
        reasons = (whole_compile(m) for m in components if isinstance(m, nn.Module))
        return next(filter(None, reasons), "its transformer was replaced, so apply again")

    def _problem(self, message: str) -> None:
        if message not in self.problems:
            self.problems.append(message)
            log.warning("MagCache: %s", message)
