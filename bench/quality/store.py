"""Stores results on disk, one per line as they come; stored results are not computed again."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.kept import add_line, read_lines
from magcache.images import difference

from .condition import Condition, Setting
from .counting import Cost

FOLDER = Path("bench/quality/results")  # committed, except the uncached images
EQUAL = 100.0  # dB of images that are equal except for rounding; an upper limit


@dataclass(frozen=True)
class Result:
    """One way with one setting, over several prompts.

    Attributes:
        prompts: The set of prompts, such as "sweep-8": its purpose and size.
        batch: Prompts sampled together.
        psnr: dB for each prompt, at most 100; ssim and flip also have one value per prompt.
    """

    way: str
    setting: Setting
    prompts: str
    batch: int
    cost: Cost
    psnr: list[float]
    ssim: list[float]
    flip: list[float]

    @property
    def key(self) -> str:
        return key_of(self.way, self.setting, self.prompts)

    @property
    def mean(self) -> float:
        """Mean PSNR, dB."""
        return float(np.mean(self.psnr))


def key_of(way: str, setting: Setting, prompts: str) -> str:
    return json.dumps([way, dict(sorted(setting.items())), prompts])


def measured(
    reference: np.ndarray, frames: np.ndarray
) -> tuple[list[float], list[float], list[float]]:
    """PSNR, SSIM and FLIP of each prompt, as means over its frames (N, frames, H, W, 3)."""
    each = [difference(a, b) for a, b in zip(reference, frames, strict=True)]
    psnr = [round(min(d.psnr, EQUAL), 3) for d in each]
    return psnr, [round(d.ssim, 5) for d in each], [round(d.flip, 5) for d in each]


def calibration_path(subject: str, condition: Condition, folder: Path = FOLDER) -> Path:
    """The file of a condition's one-prompt calibration."""
    return folder / "calibrations" / f"{subject}-{condition.name}.json"


class Store:
    """The results of one model in one condition."""

    def __init__(self, subject: str, condition: Condition, folder: Path = FOLDER) -> None:
        self.folder = folder
        self.name = f"{subject}-{condition.name}"
        self._path = folder / f"{self.name}.jsonl"
        self.results = {result.key: result for result in self._read()}

    def find(self, way: str, setting: Setting, prompts: str) -> Result | None:
        return self.results.get(key_of(way, setting, prompts))

    def of(self, prompts: str) -> list[Result]:
        """All results on one set of prompts."""
        return [result for result in self.results.values() if result.prompts == prompts]

    def add(self, result: Result) -> None:
        self.results[result.key] = result
        add_line(self._path, asdict(result))

    def forget(self, way: str) -> None:
        """Removes the results of one way, to compute them again."""
        self.results = {k: r for k, r in self.results.items() if r.way != way}
        lines = [json.dumps(asdict(result)) + "\n" for result in self.results.values()]
        if self._path.exists():
            self._path.write_text("".join(lines), encoding="utf-8")

    def frames_path(self, host: str, prompts: str) -> Path:
        """The file of the uncached images of one set of prompts."""
        return self.folder / "uncached" / f"{self.name}-{host}-{prompts}.npy"

    def _read(self) -> Iterator[Result]:
        for data in read_lines(self._path):
            yield Result(**{**data, "cost": Cost(**data["cost"])})
