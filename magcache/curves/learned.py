"""What runs have taught of a model: by how much it is predicted better or worse than expected.

An accelerated run computes evaluations that it could have predicted, so it sees how far off it
would have been. The ratio of that error to the expected one, over the flow level, corrects the
prior for this model. A run teaches only of the levels that it has sampled, whatever it was cut
to, and nothing at all where it was spoilt (see `magcache.run.Run.lessons`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .files import read_json, warn_once, write_json
from .identity import Identity
from .names import plain

_FORMAT = 2
_READS = (1, 2)  # 1 has no checksum
CELLS = 32  # over the flow level
_WIDTH = 0.08  # of the flow level, over which ratios are averaged
_DOUBT = 0.3  # comparisons' worth of the prior's own word
MEMORY = 30.0  # comparisons a cell; older ones fade
MOST = 2 * math.log(10)  # of a squared error's ratio; beyond, something else went wrong

Lesson = tuple[float, float]
"""A flow level, and the ratio of the squared error found there to the expected one."""


@dataclass(frozen=True)
class Comparison:
    """A computed residual, beside its prediction.

    Attributes:
        sigma: Its noise level.
        curve: The curve that it follows.
        expected: The expected error, as a share of the residual's norm.
        found: The error, likewise.
        size: The norm of what was compared of it.
    """

    sigma: float
    curve: str
    expected: float
    found: float
    size: float


@dataclass(frozen=True)
class Learned:
    """What is known of one model.

    Attributes:
        weights: For each cell of the flow level, how many comparisons it holds.
        logs: Their mean logarithm.
        runs: How many runs have taught it.
    """

    weights: tuple[float, ...] = (0.0,) * CELLS
    logs: tuple[float, ...] = (0.0,) * CELLS
    runs: int = 0

    def ratios(self, levels: Sequence[float]) -> np.ndarray:
        """By how much the squared errors at these levels exceed the expected ones, (n,)."""
        centres = (np.arange(CELLS) + 0.5) / CELLS
        far = (np.asarray(levels, float)[:, None] - centres) / _WIDTH
        near = np.exp(-0.5 * far**2) * np.array(self.weights)
        return np.exp(near @ np.array(self.logs) / (near.sum(1) + _DOUBT))

    def taught(self, lessons: Iterable[Lesson]) -> "Learned":
        """With the lessons of one run more."""
        weights, logs = np.array(self.weights), np.array(self.logs)
        for level, ratio in lessons:
            if not (0 <= level <= 1 and ratio > 0 and math.isfinite(ratio)):
                continue
            cell = min(int(level * CELLS), CELLS - 1)
            held = min(weights[cell], MEMORY - 1)
            told = min(max(math.log(ratio), -MOST), MOST)
            logs[cell] = np.clip((held * logs[cell] + told) / (held + 1), -MOST, MOST)
            weights[cell] = held + 1
        return Learned((*weights.tolist(),), (*logs.tolist(),), self.runs + 1)


@dataclass(frozen=True)
class Notebook:
    """The file of what runs have taught of a model.

    Attributes:
        folder: Where such files are.
        identity: The model.
    """

    folder: Path
    identity: Identity

    @property
    def path(self) -> Path:
        known = self.identity
        weights = known.weights or known.shapes
        patches = f"-{known.patches.lower()}" if known.patches else ""
        return self.folder / f"{plain(f'{known.model}-{weights}{patches}')}.json"

    def read(self) -> Learned:
        """What is known; nothing where there is no file, or one that cannot be used."""
        try:
            return self._read()
        except FileNotFoundError:
            return Learned()
        except (OSError, ValueError) as error:
            warn_once(self.path, f"{self.path} is passed over: {error}")
            return Learned()

    def _read(self) -> Learned:
        held = read_json(self.path)
        version = held.get("format") if isinstance(held, dict) else None
        if version not in _READS:
            raise ValueError(f"format {version} is not known here")
        from . import schema

        told = schema.check(schema.LearnedFile, held)
        return Learned((*told["weights"],), (*told["logs"],), told["runs"])

    def add(self, lessons: Sequence[Lesson]) -> None:
        """Writes what a run has taught. A file that cannot be written costs a warning only."""
        if not lessons:
            return
        learned = self.read().taught(lessons)
        made = {"format": _FORMAT, "model": asdict(self.identity), **asdict(learned)}
        try:
            write_json(self.path, made)
        except OSError as error:
            warn_once(self.path, f"what the run has taught was not written: {error}")
