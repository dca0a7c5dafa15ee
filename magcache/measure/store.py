"""The results of one measurement on disk, kept as they come, so that it can go on later."""

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
_KEPT = 4  # measurements in one folder
Key = tuple[str, int]
"""A way's name, and the number of a sample."""


@dataclass(frozen=True)
class Sampled:
    """How one sampling went.

    Attributes:
        seconds: Wall time.
        peak: Most bytes on the device; 0 where that is not known.
        computed, evaluations: Of the model, as MagCache reports them; 0 without it.
    """

    seconds: float
    peak: int = 0
    computed: int = 0
    evaluations: int = 0


@dataclass(frozen=True)
class Far:
    """How far one result is from the uncached one: of all its frames together.

    Attributes:
        squared_error, ssim, flip: See `magcache.images`.
    """

    squared_error: float
    ssim: float
    flip: float


class Results:
    """What is known so far; every addition is on disk when its method returns.

    Args:
        folder: Of this measurement alone; made with the first result.
        about: What was measured with what, for people. An older file's is kept.
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
        """Files a sampling with its output."""
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        scratch = self._file(key, "tmp")
        save_file({"output": output.detach().cpu().contiguous()}, scratch)
        scratch.replace(self._file(key, "safetensors"))
        self.failed.pop(key, None)
        self.sampled[key] = sampled
        self._write()

    def output(self, key: Key) -> torch.Tensor:
        """What a sampling gave."""
        from safetensors.torch import load_file

        return load_file(self._file(key, "safetensors"))["output"]

    def fail(self, key: Key, reason: str) -> None:
        """Notes why a sampling has no result, until the next try."""
        self.failed[key] = reason

    def keep_far(self, key: Key, far: Far | None, preview: Image.Image) -> None:
        """Files how far a result is from the uncached one, None for that one, and a picture."""
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
        """Marks it as complete, so that the next one begins anew; figures and pictures stay."""
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
        """Takes in an earlier part; one that cannot be used is begun anew."""
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
    """The results of a measurement, with those of an earlier part that was broken off.

    Args:
        folder: Where measurements are; the oldest beyond a few are deleted.
        about: See `Results`.
        key: All that makes another measurement, as JSON takes it.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    own = folder / digest
    others = [path for path in folder.glob("*") if path != own and (path / _FILE).is_file()]
    others.sort(key=lambda path: (path / _FILE).stat().st_mtime, reverse=True)
    for path in others[_KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
    return Results(own, about)
