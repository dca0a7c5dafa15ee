"""One sampling in several processes, which reach the same decisions without communication.

Decisions need only the curve and the noise levels, so processes with the same settings reach the
same ones. The processes exchange only notes, through the store that torch.distributed was set up
with. So MagCache adds no collective operation to the model's own and none can hang, and a process
that fails can tell those that wait for its note.
"""

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..decide import Decider

PATIENCE = 300.0  # seconds to wait for another process
GRACE = 10.0  # seconds to wait for one whose last run failed, since it may start the next one
_PAUSE = 0.002
_joined: Counter[tuple[int, ...]] = Counter()


class ParallelError(RuntimeError):
    """The processes cannot sample together; the message says why."""


class Peers:
    """The processes that sample together, as seen by one of them.

    Each process must create its `Peers` in the same order.

    Args:
        ranks: Their global ranks.
        rank: The rank of this process.
        store: A `torch.distributed.Store` that all of them share.

    Attributes:
        round: Number of runs begun so far.
    """

    def __init__(self, ranks: Iterable[int], rank: int, store: Any) -> None:
        from torch.distributed import PrefixStore

        self.ranks = tuple(sorted(ranks))
        self.rank = rank
        _joined[self.ranks] += 1
        name = "-".join(map(str, self.ranks))
        self._store = PrefixStore(f"magcache/{name}/{_joined[self.ranks]}", store)
        self.round = 0

    def agree(self, settings: Mapping[str, str]) -> None:
        """Begins a run, and checks that all processes use the same settings.

        Raises:
            ParallelError: They do not. Every process raises it, and the message says what differs.
        """
        self.round += 1
        self._store.delete_key(f"failed/{self.rank}")
        self.give(f"{self.round}/settings", dict(settings))
        found = self.take(f"{self.round}/settings")
        if self.round > 2:  # all have read it by now
            self._store.delete_key(f"{self.round - 2}/settings/{self.rank}")
        differing = [
            f"{name} ({_by_rank(self.ranks, [str(theirs.get(name)) for theirs in found])})"
            for name in dict.fromkeys(name for theirs in found for name in theirs)
            if len({str(theirs.get(name)) for theirs in found}) > 1
        ]
        if differing:
            raise ParallelError(
                f"the processes use different settings: {'; '.join(differing)}. Apply MagCache "
                "in the same way on all of them"
            )

    def fail(self, error: BaseException) -> None:
        """Tells waiting processes that this one has failed; never raises."""
        with suppress(RuntimeError, ValueError):  # the process that holds the store may be gone
            self.give("failed", repr(error))

    def give(self, name: str, note: Any) -> None:
        """Leaves a note for the others; it must be a JSON value."""
        self._store.set(f"{name}/{self.rank}", json.dumps(note))

    def take(self, name: str) -> list[Any]:
        """The notes of all processes, ordered by rank.

        Raises:
            ParallelError: A process failed, or did not leave its note in time.
        """
        return [self._wait(name, rank) for rank in self.ranks]

    def _wait(self, name: str, rank: int) -> Any:
        key, began = f"{name}/{rank}", time.monotonic()
        while not self._store.check([key]):
            waited = time.monotonic() - began
            if waited > GRACE and self._store.check([f"failed/{rank}"]):
                error = json.loads(self._store.get(f"failed/{rank}"))
                raise ParallelError(f"rank {rank} failed: {error}")
            if waited > PATIENCE:
                raise ParallelError(
                    f"rank {rank} did not answer within {PATIENCE:g} s: apply MagCache on all "
                    "processes that sample together, and run the same samplings on each"
                )
            time.sleep(_PAUSE)
        return json.loads(self._store.get(key))


def default_store() -> Any:
    """The store of `torch.distributed.init_process_group`."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


def described(decider: Decider, label: str, budget: int | None = None) -> dict[str, str]:
    """A short form of everything that decisions depend on, for comparison between processes.

    Args:
        decider: Decides the run.
        label: Name of the run's settings.
        budget: Byte budget of the cache.
    """
    basis = decider.basis
    within = "" if budget is None else f", {budget} bytes"
    return {
        "settings": f"{basis['settings']}{within}",
        "curve": f"{label} {_digest(basis['curve'])}",
        "noise levels": f"{len(decider.course.sigmas)} {_digest(basis['noise levels'])}",
    }


def _by_rank(ranks: Sequence[int], values: Sequence[str]) -> str:
    told: dict[str, list[int]] = {}
    for rank, value in zip(ranks, values, strict=True):
        told.setdefault(value, []).append(rank)
    return ", ".join(
        f"{value} on rank {', '.join(map(str, those))}" for value, those in told.items()
    )


def _digest(numbers: Any) -> str:
    """A hash of nested numbers, rounded to six digits: other machines may round differently."""
    text = json.dumps(numbers, default=lambda value: value.tolist())
    rounded = re.sub(r"-?\d[-+.e\d]*", lambda number: format(float(number[0]), ".6g"), text)
    return hashlib.sha256(rounded.encode()).hexdigest()[:12]
