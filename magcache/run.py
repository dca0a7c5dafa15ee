"""One sampling run: what is decided at each evaluation, what is kept, and what it cost."""

import logging
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import torch

from .blocks import BlockStack, Call, Mend, Residual, ResidualCache, StackMismatch, Store, combine
from .calibrate import Calibrator, Observer
from .decide import Decider, Decision, Held, Holding, Mender, Reason, Schedule, nothing_held

log = logging.getLogger("magcache")


@dataclass(frozen=True)
class Storage:
    """Where residuals are kept, as what, and in how many bytes; see `ResidualCache`."""

    store: Store = "device"
    dtype: torch.dtype | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        self.cache(1)  # says what is wrong

    def cache(self, keep: int) -> ResidualCache:
        """A cache of so many residuals a branch."""
        return ResidualCache(keep, self.store, self.dtype, self.budget)


class _Stopwatch:
    """Times work on a device without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        self._start = self._end = time.perf_counter()
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(torch.cuda.current_stream(device))
            self._events = begin, end
        self._device = device

    def stop(self) -> None:
        self._end = time.perf_counter()
        if self._events:
            self._events[1].record(torch.cuda.current_stream(self._device))

    @property
    def seconds(self) -> float:
        """Waits for the device where it has not finished."""
        if not self._events:
            return self._end - self._start
        begin, end = self._events
        end.synchronize()
        return begin.elapsed_time(end) / 1000


@dataclass
class Evaluation:
    """One call of the denoiser by the sampler, as it went.

    Attributes:
        sigma: Its noise level.
        step: Its step in the run.
        reason: Why it was computed, or that it was skipped.
        computed: For each branch whether it was computed.
        mended: Whether it was computed, and puts right what was skipped before it.
        error: Of a skipped one the expected error of what was predicted, as a share of its norm;
            None where no Gram curve tells it.
    """

    sigma: float
    step: int
    reason: Reason
    computed: dict[Hashable, bool] = field(default_factory=dict)
    mended: bool = False
    error: float | None = None
    _watches: list[_Stopwatch] = field(default_factory=list)

    @property
    def skipped(self) -> bool:
        """Whether no branch was computed."""
        return self.reason is Reason.SKIPPED and not any(self.computed.values())

    @property
    def outcome(self) -> Reason:
        """`reason`, unless a branch could not be skipped with the others."""
        alone = self.reason is Reason.SKIPPED and not self.skipped
        return Reason.NO_RESIDUAL if alone else self.reason

    @property
    def seconds(self) -> float:
        """Time of all its model calls."""
        return sum(watch.seconds for watch in self._watches)


class Run:
    """The state of one sampling run of one model. Nothing of it is kept on the model.

    The host calls `begin` once an evaluation and `call` for each of its model calls, and
    `close` at the end, also after an exception.

    Args:
        decider: Decides the evaluations.
        stack: The model's blocks.
        storage: Where residuals are kept.
        calibrator: If given, everything is computed and measured.
        label: What the report calls the settings, a preset's name for instance.
        together: Given where other processes sample with this one. All have to decide alike, so
            nothing that only this one's residuals show decides then; where each samples another
            branch, the names of all curves.
        mender: Given where the sampler allows it: puts right what was skipped, as far as the
            decider predicts residuals.
    """

    def __init__(
        self,
        decider: Decider,
        stack: BlockStack,
        storage: Storage | None = None,
        calibrator: Calibrator | None = None,
        label: str = "",
        together: Sequence[str] | None = None,
        mender: Mender | None = None,
    ) -> None:
        self.decider = decider
        self.stack = stack
        self.storage = storage or Storage()
        self.calibrator = calibrator
        self.label = label
        self.evaluations: list[Evaluation] = []
        self.warnings: list[str] = []
        self.cache = self.storage.cache(decider.keep)
        self._finite: dict[Hashable, torch.Tensor | bool] = {}
        self._observer: Observer | None = None
        if decider.corrects and together is None:
            self._observer = Observer(decider)
        self._decision = Decision(Reason.OFF)
        self._curves_of: dict[Hashable, tuple[str, ...]] = {}
        self._uncached = calibrator is None and decider.skips_nothing
        self._last = False
        self._together = together
        self._mender = mender if decider.predicts else None
        stack.forget_bases()  # what acts between blocks and head may differ from run to run

    @property
    def skipped(self) -> int:
        """Evaluations without any computed branch."""
        return sum(evaluation.skipped for evaluation in self.evaluations)

    @property
    def mended(self) -> int:
        """Evaluations that put right what was skipped before them."""
        return sum(evaluation.mended for evaluation in self.evaluations)

    def begin(self, sigma: float, step: int, last: bool = False) -> Reason:
        """Starts an evaluation and decides it, for all its branches.

        Args:
            sigma: Noise level.
            step: Step of this run it belongs to.
            last: Whether no evaluation follows, so that no residual need be kept.
        """
        self._drop_vanished()
        decision = self.decider.decide(sigma, step, self._held())
        if self.calibrator:
            decision = Decision(Reason.CALIBRATION)
        elif decision.weights and self._check_computed():
            decision = Decision(Reason.NO_RESIDUAL)
            self.decider.computed()
        self._last, self._decision = last, decision
        self.evaluations.append(Evaluation(sigma, step, decision.reason, error=decision.error))
        if decision.weights:
            self.cache.prefetch(next(iter(self._curves_of)))
        return decision.reason

    def ahead(self, evaluations: Sequence[tuple[float, int]]) -> Schedule:
        """What would be decided of evaluations (σ and step) behind the one that has begun."""
        if self._uncached or self.calibrator:
            computed = [self._decision.reason] * len(evaluations)
            return Schedule(tuple(sigma for sigma, _ in evaluations), tuple(computed))
        held = self._decision.leaves(self._held(), self.evaluations[-1].sigma)
        return self.decider.schedule(evaluations, held)

    def call(
        self,
        branch: Hashable,
        curves: str | tuple[str, ...],
        device: torch.device,
        forward: Call,
    ) -> Any:
        """Runs one model call of the current evaluation.

        Args:
            branch: What tells this call's residual from others': branch and shapes.
            curves: Name of the magnitude curve it follows, "cond" for instance; of a batch that
                holds several branches one after another, the name of each.
            device: Where the model computes.
            forward: The call, arguments bound.
        """
        evaluation = self.evaluations[-1]
        self._curves_of[branch] = (curves,) if isinstance(curves, str) else curves
        watch, skip = _Stopwatch(device), False
        try:
            skip = branch in self._decision.weights and branch in self.cache
            if skip:
                try:
                    return self._skip(branch, forward)
                except StackMismatch as mismatch:
                    self._warn(f"{mismatch}; computed instead")
                    self.cache.drop(branch)
                    skip = False
            return self._compute(branch, evaluation.sigma, forward)
        finally:
            watch.stop()
            evaluation.computed[branch] = not skip
            evaluation._watches.append(watch)
            if self._last:
                self.cache.drop(branch)
            if self._decision.weights:
                self._prefetch_next(branch)

    def close(self) -> None:
        """Frees every residual."""
        self.cache.clear()
        self._finite.clear()
        self._observer = None
        if self.calibrator:
            self.calibrator.release()

    def _held(self) -> Holding:
        """What the cache holds of the branches that take part, as far as they are known."""
        if not self._curves_of:
            return nothing_held(self.decider.curves, self.decider.keep)
        rooms = self.cache.rooms()
        held: Holding = {
            branch: Held(
                curves, tuple(self.cache.sigmas(branch)), rooms.get(branch, self.decider.keep)
            )
            for branch, curves in self._curves_of.items()
        }
        own = next(iter(held.values()))  # where each process has a branch, all hold the same
        return {name: replace(own, curves=(name,)) for name in self._together or ()} | held

    def _skip(self, branch: Hashable, forward: Call) -> Any:
        factors = self._decision.weights[branch]
        return self.stack.skip(forward, combine(self.cache.get(branch), factors))

    def _compute(self, branch: Hashable, sigma: float, forward: Call) -> Any:
        if self._uncached:
            return self.stack.plain(forward)
        cached = self.cache.sigmas(branch)
        mend = self._mending(branch, sigma, cached)
        if mend is None:
            self.cache.make_room(branch)
        output, residual = self.stack.compute(forward, mend)
        if residual is None:
            self._uncached = True
            self.close()
            self._warn(f"runs uncached from here on: {self.stack.problem}")
        elif self.calibrator:
            self.calibrator.add(branch, self._curves_of[branch], sigma, residual)
        elif not self._last:
            self.cache.put(branch, sigma, residual)
            self._finite[branch] = self._together is not None or _is_finite(residual)
            if self._observer:
                self._observer.see(branch, sigma, residual, cached, self._curves_of[branch])
        return output

    def _mending(self, branch: Hashable, sigma: float, cached: Sequence[float]) -> Mend | None:
        """What puts right the evaluations that this branch has skipped just before, if any."""
        if self._mender is None or not cached or not self.cache.fits_one_more(branch):
            return None
        before = reversed(self.evaluations[:-1])
        gap = [e.sigma for e in takewhile(lambda e: not e.computed.get(branch, True), before)][::-1]
        curves = self._curves_of[branch]

        def predict(held: Sequence[float], at: float) -> Sequence[float]:
            return self.decider.predict(curves, at, held)[0]

        factors = self._mender.factors(predict, cached, gap, sigma, self._decision.following)
        if factors is None:
            return None
        evaluation = self.evaluations[-1]

        def mend(head: int, residual: torch.Tensor) -> torch.Tensor:
            evaluation.mended = True
            kept = [tensors[head] for tensors in self.cache.get(branch)]
            return combine([(tensor,) for tensor in (*kept, residual)], factors)[0]

        return mend

    def _check_computed(self) -> bool:
        """Looks at what was computed since the last skipped evaluation, which waits for it.

        Tells the decider how good predictions were, and frees residuals with NaN or Inf.

        Returns:
            Whether there were any of these.
        """
        if self._observer:
            self._observer.tell()
        self._finite = {branch: bool(finite) for branch, finite in self._finite.items()}
        broken = [b for b, finite in self._finite.items() if not finite and b in self.cache]
        for branch in broken:
            self.cache.drop(branch)
            self._warn("a residual held NaN or Inf: dropped, and computed anew")
        return bool(broken)

    def _drop_vanished(self) -> None:
        """Frees branches that did not take part in the last evaluation; they decide no more."""
        taking_part = self.evaluations[-1].computed if self.evaluations else {}
        for branch in [b for b in self._curves_of if b not in taking_part]:
            del self._curves_of[branch]
            self.cache.drop(branch)

    def _prefetch_next(self, branch: Hashable) -> None:
        """Starts to bring back the residual that this evaluation's next call needs."""
        order = list(self._curves_of)
        following = order.index(branch) + 1
        if following < len(order):
            self.cache.prefetch(order[following])

    def _warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)
            log.warning("MagCache%s: %s", f" ({self.label})" if self.label else "", message)


def _is_finite(residual: Residual) -> torch.Tensor:
    """A flag on the device; summing in float32 keeps NaN and Inf and makes no copy."""
    total = torch.stack([tensor.sum(dtype=torch.float32) for tensor in residual])
    return total.isfinite().all()
