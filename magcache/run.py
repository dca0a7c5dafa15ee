"""One sampling run: the decision at each evaluation, the cached residuals, and the time taken."""

import itertools
import logging
import math
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .blocks import Call, Mend, Place, ResidualCache, StackMismatch, Store, combine
from .calibrate import OVERFLOWS, Calibrator, Observer, size_of
from .curves import Lesson
from .decide import Decider, Decision, Held, Holding, Mender, Reason, Schedule, nothing_held

log = logging.getLogger("magcache")
_BROKEN = f"a residual held NaN or Inf, so it was not reused or learned from: {OVERFLOWS}"


@dataclass(frozen=True)
class Storage:
    """Where residuals are kept, in which dtype, and the byte budget; see `ResidualCache`."""

    store: Store = "device"
    dtype: torch.dtype | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        self.cache(1)  # raises if a setting is out of range

    def cache(self, keep: int) -> ResidualCache:
        """A cache that keeps `keep` residuals per branch."""
        return ResidualCache(keep, self.store, self.dtype, self.budget)


class Stopwatch:
    """Times work on a device without synchronising until the time is read."""

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
        """Elapsed time; waits for the device if it has not finished."""
        if not self._events:
            return self._end - self._start
        begin, end = self._events
        end.synchronize()
        return begin.elapsed_time(end) / 1000


@dataclass
class Evaluation:
    """One call of the denoiser by the sampler, and what happened in it.

    Attributes:
        sigma: Its noise level.
        step: Its step in the run.
        reason: Why it was computed, or `Reason.SKIPPED`.
        computed: Whether each branch was computed.
        mended: Whether it also mended the gap before it (see `decide.mending`).
        error: Expected relative error of the prediction if it was skipped; None without a Gram
            curve.
        level: Its flow level, if the curves are indexed by that instead of `sigma`.
    """

    sigma: float
    step: int
    reason: Reason
    computed: dict[Hashable, bool] = field(default_factory=dict)
    mended: bool = False
    error: float | None = None
    level: float | None = None
    _watches: list[Stopwatch] = field(default_factory=list)
    _whole: Stopwatch | None = None

    @property
    def place(self) -> float:
        """Its noise level on the curves."""
        return self.sigma if self.level is None else self.level

    @property
    def skipped(self) -> bool:
        """Whether no branch was computed."""
        return self.reason is Reason.SKIPPED and not any(self.computed.values())

    @property
    def outcome(self) -> Reason:
        """`reason`, or `NO_RESIDUAL` if the skip was planned but a branch had to be computed."""
        alone = self.reason is Reason.SKIPPED and not self.skipped
        return Reason.NO_RESIDUAL if alone else self.reason

    @property
    def seconds(self) -> float:
        """Time of the whole evaluation if the host measured it, otherwise of its model calls."""
        watches = [self._whole] if self._whole else self._watches
        return sum(watch.seconds for watch in watches)


class Run:
    """The state of one sampling run of one model. It stores nothing on the model.

    The host calls `begin` once per evaluation, `call` for each model call in it, and `close` at
    the end, including after an exception.

    Args:
        decider: Decides which evaluations are computed.
        stack: Where residuals are taken and added back: the model's blocks, or its output.
        storage: Where residuals are kept.
        calibrator: If given, every evaluation is computed and measured.
        label: Name of the settings in the report, for example a preset's name.
        together: Not None if other processes sample with this one. All must reach the same
            decision, so nothing that only this process can see may affect it. If each process
            samples a different branch, it holds the names of all curves.
        mender: Corrects the error of skipped evaluations. Pass one if the sampler allows it; it
            is used only if the decider predicts residuals.
    """

    def __init__(
        self,
        decider: Decider,
        stack: Place,
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
        self._unread: dict[Hashable, torch.Tensor] = {}  # sizes not yet checked for NaN or Inf
        self._sizes: list[torch.Tensor] = []  # one per computed call
        self._spoilt = ""
        self._observer: Observer | None = None
        if decider.observes and together is None:
            self._observer = Observer(decider)
        self._decision = Decision(Reason.OFF)
        self._curves_of: dict[Hashable, tuple[str, ...]] = {}
        self._uncached = calibrator is None and decider.skips_nothing
        self._last = False
        self._together = together
        self._mender = mender if decider.predicts else None
        stack.forget_bases()  # what runs between blocks and head may differ between runs

    @property
    def skipped(self) -> int:
        """Number of evaluations in which no branch was computed."""
        return sum(evaluation.skipped for evaluation in self.evaluations)

    @property
    def mended(self) -> int:
        """Number of evaluations that mended the gap before them."""
        return sum(evaluation.mended for evaluation in self.evaluations)

    def begin(
        self,
        sigma: float,
        step: int,
        last: bool = False,
        fresh: bool = False,
        level: float | None = None,
    ) -> Reason:
        """Starts an evaluation and makes the decision for all its branches.

        Args:
            sigma: Noise level.
            step: The step of this run that it belongs to.
            last: Whether this is the last evaluation, so its residual need not be kept.
            fresh: Whether it starts afresh: nothing cached before it may be used.
            level: Its flow level, if the curves are indexed by that instead of `sigma`.
        """
        if fresh:
            self.cache.clear()
        self._drop_vanished()
        evaluation = Evaluation(sigma, step, Reason.OFF, level=level)
        decision = self.decider.decide(evaluation.place, step, self._held())
        if self.calibrator:
            decision = Decision(Reason.CALIBRATION)
        elif decision.weights and self._check_computed():
            decision = Decision(Reason.NO_RESIDUAL)
            self.decider.computed()
        self._last, self._decision = last, decision
        evaluation.reason, evaluation.error = decision.reason, decision.error
        self.evaluations.append(evaluation)
        if decision.weights:
            self.cache.prefetch(next(iter(self._curves_of)))
        return decision.reason

    def ahead(self, evaluations: Sequence[tuple[float, int]]) -> Schedule:
        """The schedule of the evaluations (σ, step) that follow the current one."""
        if self._uncached or self.calibrator:
            computed = [self._decision.reason] * len(evaluations)
            return Schedule(tuple(sigma for sigma, _ in evaluations), tuple(computed))
        held = self._decision.leaves(self._held(), self.evaluations[-1].place)
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
            branch: Key of this call's residual: the branch and its shapes.
            curves: Name of the curve it follows, for example "cond"; for a batch of several
                branches, the name of each in order.
            device: Where the model runs.
            forward: The call, with its arguments bound.
        """
        parts = {branch: (curves,) if isinstance(curves, str) else curves}
        return self.call_parts(parts, device, forward)

    def call_parts(
        self, parts: Mapping[Hashable, tuple[str, ...]], device: torch.device, forward: Call
    ) -> Any:
        """Runs one model call whose residual consists of separately predicted parts.

        Args:
            parts: For each part its key and curve names, as in `call`. The residual holds the
                same number of tensors for each part, one part after another.
            device, forward: See `call`.
        """
        evaluation = self.evaluations[-1]
        self._curves_of |= parts
        watch, skip = Stopwatch(device), False
        try:
            skip = self.skips(parts)
            if skip:
                try:
                    return self._skip(parts, forward)
                except StackMismatch as mismatch:
                    self.warn(f"{mismatch}, so the evaluation was computed")
                    self.drop(parts)
                    skip = False
            return self._compute(parts, evaluation, forward)
        finally:
            watch.stop()
            evaluation.computed |= dict.fromkeys(parts, not skip)
            evaluation._watches.append(watch)
            if self._last:
                self.drop(parts)
            if self._decision.weights:
                self._prefetch_next([*parts][-1])

    def skips(self, parts: Iterable[Hashable]) -> bool:
        """Whether a call with these parts is skipped in the current evaluation."""
        return all(part in self._decision.weights and part in self.cache for part in parts)

    def aside(self, device: torch.device, forward: Call) -> Any:
        """Runs and times a call of the current evaluation without caching anything."""
        watch = Stopwatch(device)
        try:
            return forward()
        finally:
            watch.stop()
            self.evaluations[-1]._watches.append(watch)

    def took(self, watch: Stopwatch) -> None:
        """Sets the time of the whole current evaluation, ControlNets and guidance included."""
        self.evaluations[-1]._whole = watch

    def drop(self, parts: Iterable[Hashable]) -> None:
        """Frees the cached residuals of these parts."""
        for part in parts:
            self.cache.drop(part)

    def spoil(self, reason: str) -> None:
        """Marks the run as unfit to measure or learn from, and says why."""
        self._spoilt = reason
        if self.calibrator:
            self.calibrator.spoil(reason)

    def warn(self, message: str) -> None:
        """Warns the user once, in the log and in the report."""
        if message not in self.warnings:
            self.warnings.append(message)
            log.warning("MagCache%s: %s", f" ({self.label})" if self.label else "", message)

    def lessons(self) -> list[Lesson]:
        """What the run has taught about its model; waits for the device.

        Empty if the run was spoilt, for example by an output of NaN, Inf or all zeros.
        """
        if self._observer is None:
            return []
        sizes = [float(size) for size in self._sizes]
        if not all(map(math.isfinite, sizes)):
            self.warn(_BROKEN)
            return []
        spoilt = self._spoilt or ("" if all(sizes) else "the model returned 0 everywhere")
        if spoilt:
            self.warn(f"nothing was learned from this run: {spoilt}")
            return []
        return self.decider.lessons(self._observer.comparisons())

    def close(self) -> None:
        """Frees every residual."""
        self.cache.clear()
        self._unread.clear()
        self._sizes.clear()
        self._observer = None
        if self.calibrator:
            self.calibrator.release()

    def _held(self) -> Holding:
        """What the cache holds for the branches seen so far."""
        if not self._curves_of:
            return nothing_held(self.decider.curves, self.decider.keep)
        rooms = self.cache.rooms()
        held: Holding = {
            branch: Held(
                curves, tuple(self.cache.sigmas(branch)), rooms.get(branch, self.decider.keep)
            )
            for branch, curves in self._curves_of.items()
        }
        own = next(iter(held.values()))  # with a branch per process, all processes hold the same
        return {name: replace(own, curves=(name,)) for name in self._together or ()} | held

    def _skip(self, parts: Iterable[Hashable], forward: Call) -> Any:
        weights = self._decision.weights
        found = [combine(self.cache.get(part), weights[part]) for part in parts]
        return self.stack.skip(forward, tuple(itertools.chain(*found)))

    def _compute(
        self, parts: Mapping[Hashable, tuple[str, ...]], evaluation: Evaluation, forward: Call
    ) -> Any:
        if self._uncached:
            return self.stack.plain(forward)
        sigma, cached = evaluation.place, {part: self.cache.sigmas(part) for part in parts}
        mend = self._mending(parts, sigma, cached)
        if mend is None:
            for part in parts:
                self.cache.make_room(part)
        output, residual = self.stack.compute(forward, mend)
        if residual is None:
            self._uncached = True
            self.close()
            self.warn(f"the rest of this run is uncached: {self.stack.problem}")
            return output
        size = len(residual) // len(parts)
        sizes = []
        for number, (part, curves) in enumerate(parts.items()):
            own = residual[number * size : (number + 1) * size]
            if self.calibrator:
                self.calibrator.add(part, curves, sigma, own)
                continue
            if self._together is None:
                sizes.append(size_of(own))
            if not self._last:
                self.cache.put(part, sigma, own)
                if sizes:
                    self._unread[part] = sizes[-1]
                if self._observer:
                    self._observer.see(part, sigma, own, cached[part], curves)
        if self._observer and sizes:
            self._sizes.append(torch.stack(sizes).sum())
        return output

    def _mending(
        self,
        parts: Mapping[Hashable, tuple[str, ...]],
        sigma: float,
        cached: Mapping[Hashable, Sequence[float]],
    ) -> Mend | None:
        """The function that mends the gap before a call with these parts, or None."""
        found = {
            part: self._factors(part, curves, sigma, cached[part]) for part, curves in parts.items()
        }
        if any(factors is None for factors in found.values()):
            return None
        evaluation, order = self.evaluations[-1], list(parts)

        def mend(head: int, residual: torch.Tensor) -> torch.Tensor:
            evaluation.mended = True
            number, own = divmod(head, len(self.cache.get(order[0])[0]))
            part = order[number]
            kept = [tensors[own] for tensors in self.cache.get(part)]
            return combine([(tensor,) for tensor in (*kept, residual)], found[part] or ())[0]

        return mend

    def _factors(
        self, branch: Hashable, curves: tuple[str, ...], sigma: float, cached: Sequence[float]
    ) -> list[float] | None:
        """Mending weights of a branch's cached residuals and the computed one, or None."""
        if self._mender is None or not cached or not self.cache.fits_one_more(branch):
            return None
        before = reversed(self.evaluations[:-1])
        gap = [
            e.place for e in itertools.takewhile(lambda e: not e.computed.get(branch, True), before)
        ][::-1]

        def predict(held: Sequence[float], at: float) -> Sequence[float]:
            return self.decider.predict(curves, at, held)[0]

        return self._mender.factors(predict, cached, gap, sigma, self._decision.following)

    def _check_computed(self) -> bool:
        """Checks the residuals computed since the last skipped evaluation; waits for the device.

        Tells the decider how good its predictions were, and frees residuals with NaN or Inf.

        Returns:
            Whether any residual held NaN or Inf.
        """
        if self._observer:
            self._observer.tell()
        unread, self._unread = self._unread, {}
        broken = [b for b, size in unread.items() if not size.isfinite() and b in self.cache]
        for branch in broken:
            self.cache.drop(branch)
            self.warn(_BROKEN)
        return bool(broken)

    def _drop_vanished(self) -> None:
        """Forgets branches that took no part in the last evaluation."""
        taking_part = self.evaluations[-1].computed if self.evaluations else {}
        for branch in [b for b in self._curves_of if b not in taking_part]:
            del self._curves_of[branch]
            self.cache.drop(branch)

    def _prefetch_next(self, branch: Hashable) -> None:
        """Starts to copy back the residual that the next call of this evaluation needs."""
        order = list(self._curves_of)
        following = order.index(branch) + 1
        if following < len(order):
            self.cache.prefetch(order[following])
