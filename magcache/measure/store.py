"""Stores the results of a measurement on disk as they come, so that it can continue later."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..curves.files import read_json, write_json

_FORMAT = 1
_FILE = "measurement.json"
_KEPT = 4  # most recent measurements
Key = tuple[str, int]
"""Name of a way, and number of a sample."""


@dataclass(frozen=True)
class Sampled:
    """Figures of one sampling.

    Attributes:
        seconds: Wall time.
        peak: Peak bytes on the device; 0 if unknown.
        computed, evaluations: Evaluations as MagCache reports them; 0 without it.
    """

    seconds: float
    peak: int = 0
    computed: int = 0
    evaluations: int = 0


@dataclass(frozen=True)
class Far:
    """The difference of one result from the uncached one, over all its frames.

    Attributes:
        squared_error, ssim, flip: See `magcache.images`.
    """

    squared_error: float
    ssim: float
    flip: float


class Results:
    """The results so far; each addition is on disk when its method returns.

    Args:
        folder: The folder of this measurement; created with the first result.
        about: What was measured, for people to read. Replaced by that of an earlier part.
    """

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        self.folder = folder
        self.about = dict(about)
        self.sampled: dict[Key, Sampled] = {}
        self.far: dict[Key, Far] = {}
        self.failed: dict[Key, str] = {}
        self.done = False
        self._read()

    def keep(self, key: Key, output: torch.Tensor, sampled: Sampled) -> None:
        """Stores a sampling with its output."""
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        scratch = self._file(key, "tmp")
        save_file({"output": output.detach().cpu().contiguous()}, scratch)
        scratch.replace(self._file(key, "safetensors"))
        self.failed.pop(key, None)
        self.sampled[key] = sampled
        self._write()

    def output(self, key: Key) -> torch.Tensor:
        """The output of a sampling."""
        from safetensors.torch import load_file

        return load_file(self._file(key, "safetensors"))["output"]

    def fail(self, key: Key, reason: str) -> None:
        """Notes why a sampling failed, until the next try."""
        self.failed[key] = reason

    def keep_far(self, key: Key, far: Far | None, preview: Image.Image) -> None:
        """Stores a preview and the difference from the uncached result, None for that itself."""
        preview.save(self._file(key, "png"))
        if far:
            self.far[key] = far
            self._write()

    def has_preview(self, key: Key) -> bool:
        return self._file(key, "png").is_file()

    def preview(self, key: Key) -> Image.Image:
        with Image.open(self._file(key, "png")) as picture:
            return picture.convert("RGB")

    def finish(self) -> None:
        """Marks the measurement as complete, so the next one starts over. Deletes the outputs."""
        self.done = True
        self._write()
        for path in self.folder.glob("*.safetensors"):
            path.unlink(missing_ok=True)

    def _file(self, key: Key, kind: str) -> Path:
        way, number = key
        name = "".join(letter if letter.isalnum() else "-" for letter in way)
        return self.folder / f"{name}-{number + 1}.{kind}"

    def _write(self) -> None:
        held = {
            "format": _FORMAT,
            "done": self.done,
            "about": self.about,
            "sampled": [[*key, asdict(value)] for key, value in self.sampled.items()],
            "far": [[*key, asdict(value)] for key, value in self.far.items()],
        }
        write_json(self.folder / _FILE, held)

    def _read(self) -> None:
        """Reads an earlier part, unless it is complete or unusable."""
        try:
            held = read_json(self.folder / _FILE)
            if held["format"] != _FORMAT or held["done"]:
                return
            sampled = {(way, at): Sampled(**values) for way, at, values in held["sampled"]}
            far = {(way, at): Far(**values) for way, at, values in held["far"]}
            about = {str(name): str(value) for name, value in held["about"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return
        self.sampled = {
            key: value for key, value in sampled.items() if self._file(key, "safetensors").is_file()
        }
        self.far = {key: value for key, value in far.items() if self.has_preview(key)}
        self.about = about


def begun(folder: Path, about: Mapping[str, str], key: Any) -> Results:
    """The results of a measurement, including those of an interrupted earlier part.

    Args:
        folder: The folder of all measurements; only the most recent ones are kept.
        about: See `Results`.
        key: Everything that distinguishes this measurement from others, as JSON data.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    own = folder / digest
    others = [path for path in folder.glob("*") if path != own and (path / _FILE).is_file()]
    others.sort(key=lambda path: (path / _FILE).stat().st_mtime, reverse=True)
    for path in others[_KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
    return Results(own, about)
