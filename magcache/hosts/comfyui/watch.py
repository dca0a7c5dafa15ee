"""What a node shows of its model's runs: live on the node, later in MagCache Report."""

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
_REPLACED = "another MagCache node behind this one took its place in this run"


class Watch:
    """What one node knows about its model's runs.

    It is in the model's options, which ComfyUI may keep for a long time, so it holds only figures.

    Attributes:
        node_id: The node in the workflow, None outside one.
        asked: The settings of its widgets.
        ended: Number of finished runs.
        last: Report of the last one.
        measured: Text and picture of a measurement, see `benchmark`.
        replaces: The watch of the MagCache node in front, which this one replaces.
    """

    def __init__(self, node_id: str | None, asked: str) -> None:
        self.node_id = node_id
        self.asked = asked
        self.ended = 0
        self.last: Report | None = None
        self.measured: tuple[str, Any] | None = None
        self.replaces: Watch | None = None

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Watch":
        """Returns itself: older ComfyUI copy the options with each clone, and sample clones."""
        return self

    def keep(self, report: Report) -> None:
        """Records a finished run, also for the nodes in front."""
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
    """Shows the progress of one run on its node.

    Args:
        watch: The node's watch, None outside a workflow.
        sigmas: Noise levels of the run, without the final one.
    """

    def __init__(self, watch: Watch | None, sigmas: Sequence[float]) -> None:
        self._node_id = watch.node_id if watch else None
        self._sigmas = sigmas
        self._starts: list[float] = []
        self._due = 0.0
        self._now: tuple[Run | None, int, str] | None = None

    def evaluation(self, run: Run | None, step: int, missing: str = "") -> None:
        """Shows the progress when an evaluation begins, at most a few times per second.

        It uses the host's clock and does not wait for the device.

        Args:
            run: The run, None if there is none yet.
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
        """Shows that the run was interrupted or failed."""
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
        """How much of the run is computed; "" if that is not known beforehand."""
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
        """Seconds left, from the time that computed and skipped evaluations took so far."""
        evaluations = (len(run.evaluations) - 1) / step if step else 1  # per step; 2 with Heun
        costs = [skipped if reason is Reason.SKIPPED else computed for reason in ahead.reasons]
        now = skipped if run.evaluations[-1].skipped else computed
        return now + evaluations * sum(costs)


def clock(seconds: float) -> str:
    """A time such as "1:05", for 65 seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
