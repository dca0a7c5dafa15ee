"""What a node tells of the samplings of its model: live on itself, later to MagCache Report."""

import itertools
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from ...decide import Reason, Schedule
from ...report import Report, gain, nothing_to_gain
from ...run import Run
from . import host

_EVERY = 0.3  # seconds between two texts on a node
_REPLACED = "another MagCache node behind this one took its place in this sampling"


class Watch:
    """What one node knows of the samplings of its model.

    The model's options carry it, and ComfyUI keeps those for as long as it likes: it holds
    figures only.

    Attributes:
        node_id: The node in the graph, None outside one.
        asked: What its widgets ask for.
        ended: How many samplings have come to their end.
        last: The last one of these.
        measured: The text and the picture of a measurement, see `benchmark`.
        replaces: What the MagCache node in front of it knows, whose place this one takes.
    """

    def __init__(self, node_id: str | None, asked: str) -> None:
        self.node_id = node_id
        self.asked = asked
        self.ended = 0
        self.last: Report | None = None
        self.measured: tuple[str, Any] | None = None
        self.replaces: Watch | None = None

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Watch":
        """Itself: older ComfyUI copy a model's options with each clone, and clones are sampled."""
        return self

    def keep(self, report: Report) -> None:
        """Takes in a sampling that has ended, here and in front."""
        self._take_in(report, report.short())
        front = self.replaces
        while front:
            front._take_in(report.telling("node", _REPLACED), _REPLACED)
            front = front.replaces

    def _take_in(self, report: Report, text: str) -> None:
        self.ended += 1
        self.last = report
        host.show(text, self.node_id)


class Progress:
    """The text on a node during one sampling.

    Args:
        watch: Whose node it is, None outside a graph.
        sigmas: The sampling's noise levels without the one it ends at.
    """

    def __init__(self, watch: Watch | None, sigmas: Sequence[float]) -> None:
        self._node_id = watch.node_id if watch else None
        self._sigmas = sigmas
        self._starts: list[float] = []
        self._due = 0.0
        self._now: tuple[Run | None, int, str] | None = None

    def evaluation(self, run: Run | None, step: int, missing: str = "") -> None:
        """Shows how far the sampling is as an evaluation begins, a few times a second at most.

        Reads this machine's clock and never the device's, which would wait for it.

        Args:
            run: The run, None as long as there is none.
            step: Step of the evaluation.
            missing: Why the model runs uncached.
        """
        now = time.perf_counter()
        self._starts.append(now)
        self._now = run, step, missing
        if now >= self._due:
            self._due = now + _EVERY
            host.show(self._text(*self._now), self._node_id)

    def stopped(self) -> None:
        """Shows that the sampling has been interrupted, or has failed."""
        at = f"at step {self._now[1] + 1} of {len(self._sigmas)}" if self._now else "at the start"
        host.show(f"stopped {at}", self._node_id)

    def _text(self, run: Run | None, step: int, missing: str) -> str:
        head = f"step {step + 1} of {len(self._sigmas)}"
        if run is None or missing:
            return f"{head}\n{missing}".rstrip()
        ahead = run.ahead([(sigma, at) for at, sigma in enumerate(self._sigmas) if at > step])
        told = "measuring" if run.calibrator else self._planned(run, step, ahead)
        seconds = [later - earlier for earlier, later in itertools.pairwise(self._starts)]
        done = list(zip(run.evaluations[:-1], seconds, strict=False))
        computed = [took for evaluation, took in done if not evaluation.skipped]
        skipped = [took for evaluation, took in done if evaluation.skipped]
        if computed:
            costs = median(computed), median(skipped) if skipped else 0.0
            head += f", {clock(self._left(run, step, ahead, *costs))} left"
        return f"{head}\n{told}".rstrip()

    def _planned(self, run: Run, step: int, ahead: Schedule) -> str:
        """What is computed in all; nothing where that is not known beforehand."""
        past = run.evaluations
        if len(past) != step + 1:  # several evaluations a step
            return ""
        count = len(past) + len(ahead.reasons)
        if Reason.LITTLE_GAIN in (past[-1].reason, *ahead.reasons):
            return nothing_to_gain(count)
        skipped = sum(each.skipped for each in past) + ahead.skipped
        computed = count - skipped
        return gain(count / computed, computed, count, [run.decider.expected]) if skipped else ""

    def _left(self, run: Run, step: int, ahead: Schedule, computed: float, skipped: float) -> float:
        """Seconds from here on, with what each kind of evaluation has cost up to here."""
        evaluations = (len(run.evaluations) - 1) / step if step else 1  # a step, of two in Heun
        costs = [skipped if reason is Reason.SKIPPED else computed for reason in ahead.reasons]
        now = skipped if run.evaluations[-1].skipped else computed
        return now + evaluations * sum(costs)


def clock(seconds: float) -> str:
    """ "1:05" for 65 seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
