"""What runs teach about a model: how much better or worse it is predicted than expected.

An accelerated run computes evaluations that it could have predicted, so it sees how large the
error would have been. The ratio of that error to the expected one, over the flow level, corrects
the prior for this model. A run teaches only about the levels that it sampled, and nothing if it
was spoilt (see `magcache.run.Run.lessons`).
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
_READS = (1, 2)  # format 1 has no checksum
CELLS = 32  # over the flow level, from 0 to 1
_WIDTH = 0.08  # flow levels over which ratios are averaged
_DOUBT = 0.3  # the prior counts as much as this many comparisons
MEMORY = 30.0  # comparisons per cell; older ones fade
MOST = 2 * math.log(10)  # limit of log ratios of squared errors; beyond, something else is wrong

Lesson = tuple[float, float]
"""A flow level, and the ratio of the squared error measured there to the expected one."""


@dataclass(frozen=True)
class Comparison:
    """A computed residual compared with its prediction.

    Attributes:
        sigma: Its noise level.
        curve: The curve that it follows.
        expected: The expected error, relative to the residual's norm.
        found: The measured error, relative to the residual's norm.
        size: The norm of the entries that were compared.
    """

    sigma: float
    curve: str
    expected: float
    found: float
    size: float


@dataclass(frozen=True)
class Learned:
    """What runs have taught about one model.

    Attributes:
        weights: For each cell of the flow level, the number of comparisons it holds.
        logs: The mean logarithm of their ratios.
        runs: Number of runs it was learned from.
    """

    weights: tuple[float, ...] = (0.0,) * CELLS
    logs: tuple[float, ...] = (0.0,) * CELLS
    runs: int = 0

    def ratios(self, levels: Sequence[float]) -> np.ndarray:
        """Ratios of the squared errors at these levels to the expected ones, (n,)."""
        centres = (np.arange(CELLS) + 0.5) / CELLS
        far = (np.asarray(levels, float)[:, None] - centres) / _WIDTH
        near = np.exp(-0.5 * far**2) * np.array(self.weights)
        return np.exp(near @ np.array(self.logs) / (near.sum(1) + _DOUBT))

    def taught(self, lessons: Iterable[Lesson]) -> "Learned":
        """The same with the lessons of one more run."""
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
    """The file that holds what runs have taught about a model.

    Attributes:
        folder: The folder of such files.
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
        """What is known; nothing if there is no file or it cannot be used."""
        try:
            return self._read()
        except FileNotFoundError:
            return Learned()
        except (OSError, ValueError) as error:
            warn_once(self.path, f"{self.path} was ignored: {error}")
            return Learned()

    def _read(self) -> Learned:
        held = read_json(self.path)
        version = held.get("format") if isinstance(held, dict) else None
        if version not in _READS:
            raise ValueError(f"this MagCache does not know its format {version}")
        from . import schema

        told = schema.check(schema.LearnedFile, held)
        return Learned((*told["weights"],), (*told["logs"],), told["runs"])

    def add(self, lessons: Sequence[Lesson]) -> None:
        """Saves what a run has taught. Only warns if the file cannot be written."""
        if not lessons:
            return
        learned = self.read().taught(lessons)
        made = {"format": _FORMAT, "model": asdict(self.identity), **asdict(learned)}
        try:
            write_json(self.path, made)
        except OSError as error:
            warn_once(self.path, f"what this run taught was not saved: {error}")
