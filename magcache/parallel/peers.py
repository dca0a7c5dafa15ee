"""Several processes that sample one thing together: the same decisions, without talking.

Decisions need only curve and noise levels, so processes with the same settings decide alike.
What they do exchange are notes, left in the store that torch.distributed was set up with: no
collective operation is added to the model's own, none can be left waiting, and a process that
fails says so to those who wait for its note.
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

PATIENCE = 300.0  # seconds for which another process is waited for
GRACE = 10.0  # seconds for one whose last run failed: it may begin the next one all the same
_PAUSE = 0.002
_joined: Counter[tuple[int, ...]] = Counter()


class ParallelError(RuntimeError):
    """The processes cannot sample together, and why."""


class Peers:
    """The processes that sample together, as one of them sees them.

    Made by each of them in the same order.

    Args:
        ranks: Their global ranks.
        rank: That of this process.
        store: A `torch.distributed.Store` that all of them share.

    Attributes:
        round: How many runs they have begun.
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
        """Makes sure that all begin a run with the same settings.

        Raises:
            ParallelError: They do not; all of them raise it, with what differs.
        """
        self.round += 1
        self._store.delete_key(f"failed/{self.rank}")
        self.give(f"{self.round}/settings", dict(settings))
        found = self.take(f"{self.round}/settings")
        if self.round > 2:  # by now all have read it
            self._store.delete_key(f"{self.round - 2}/settings/{self.rank}")
        differing = [
            f"{name} ({_by_rank(self.ranks, [str(theirs.get(name)) for theirs in found])})"
            for name in dict.fromkeys(name for theirs in found for name in theirs)
            if len({str(theirs.get(name)) for theirs in found}) > 1
        ]
        if differing:
            raise ParallelError(
                f"the processes do not sample with the same settings: {'; '.join(differing)}: "
                "apply MagCache alike on all of them"
            )

    def fail(self, error: BaseException) -> None:
        """Tells those who wait that this process will not come; never raises."""
        with suppress(RuntimeError, ValueError):  # the store goes with the process that holds it
            self.give("failed", repr(error))

    def give(self, name: str, note: Any) -> None:
        """Leaves a note, in JSON's types, for the others."""
        self._store.set(f"{name}/{self.rank}", json.dumps(note))

    def take(self, name: str) -> list[Any]:
        """The notes of all, by rank.

        Raises:
            ParallelError: One of them failed, or did not leave any in time.
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
                    f"rank {rank} did not come within {PATIENCE:g} s: apply MagCache on all "
                    "processes that sample together, and sample as often on each"
                )
            time.sleep(_PAUSE)
        return json.loads(self._store.get(key))


def default_store() -> Any:
    """The store of `torch.distributed.init_process_group`."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


def described(decider: Decider, label: str, budget: int | None = None) -> dict[str, str]:
    """All that decisions follow from, to compare: short, and the same where they are the same.

    Args:
        decider: Decides the run.
        label: What the run is called.
        budget: Bytes for what is held.
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
    """Of nested numbers, to six digits: processes on different machines may round differently."""
    text = json.dumps(numbers, default=lambda value: value.tolist())
    rounded = re.sub(r"-?\d[-+.e\d]*", lambda number: format(float(number[0]), ".6g"), text)
    return hashlib.sha256(rounded.encode()).hexdigest()[:12]
