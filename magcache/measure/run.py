"""Runs a measurement: first all samplings, then the comparisons."""

import math
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Protocol

import torch
from PIL import Image
from torch import nn

from .. import __version__
from ..curves import numbered
from ..images import Compared, compare
from ..pictures import draw_rows, picture_of
from .rows import READ, Row, rows_of, table
from .store import Far, Results, Sampled
from .ways import Way, check_steps

_SIDE = 256  # pixels, the largest side of a preview
OUT_OF_MEMORY = "out of memory"

Step = Callable[[str, int, int], None]
"""Called with the current task, the finished steps, and all steps of the measurement."""


class Subject(Protocol):
    """A model with its way of sampling.

    Attributes:
        steps: Steps of a full run.
        samples: Number of samples, which differ in seed or prompt.
        device: The device it runs on.
    """

    steps: int
    samples: int
    device: torch.device

    def warm_up(self) -> None:
        """Samples briefly, so that loading and compiling are not measured."""

    def sample(
        self, way: Way, number: int, on_step: Callable[[int], None]
    ) -> tuple[torch.Tensor, Sampled]:
        """Runs and times one sampling; its output may be on any device."""
        ...

    def images(self, output: torch.Tensor) -> torch.Tensor:
        """The output as images or frames (N, H, W, 3) in [0, 1]."""
        ...

    def freed(self) -> None:
        """Frees memory after it has run out."""


@dataclass(frozen=True)
class Measurement:
    """A finished measurement.

    Attributes:
        results: All results.
        ways: The ways of sampling, the uncached one first.
        samples: Number of samples for each way.
    """

    results: Results
    ways: Sequence[Way]
    samples: int

    @property
    def rows(self) -> list[Row]:
        return rows_of(self.results, self.ways, self.samples)

    @property
    def complete(self) -> bool:
        return not self.results.failed

    def summary(self) -> str:
        """One short line per way."""
        return "\n".join(f"{row.name}: {row.short}" for row in self.rows)

    def text(self) -> str:
        """A text to send to others: versions, device, settings and the table."""
        about = "\n".join(f"- {name}: {value}" for name, value in self.results.about.items())
        return f"MagCache, measured\n\n{about}\n\n{table(self.rows)}\n\n{READ}\n"

    def picture(self) -> Image.Image:
        """One row per way, with its figures and pictures."""
        shown = {}
        for way, row in zip(self.ways, self.rows, strict=True):
            keys = [(way.name, number) for number in range(self.samples)]
            if all(map(self.results.has_preview, keys)):
                shown[f"{row.name}\n{row.short}"] = [self.results.preview(key) for key in keys]
        return draw_rows(shown, [f"sample {number + 1}" for number in range(self.samples)])


def written(text: str, picture: Image.Image, folder: Path, name: str) -> Iterator[Path]:
    """Writes a measurement's text and picture, and yields each file once it is there.

    An earlier measurement stays: the files get the first free one of `name`, "name-2" and so on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = (folder / f"{each}.md" for each in numbered(name))
    file = next(path for path in files if not path.exists())
    file.write_text(text, encoding="utf-8")
    yield file
    picture.save(file.with_suffix(".png"))
    yield file.with_suffix(".png")


def environment(host: str, device: torch.device) -> dict[str, str]:
    """Versions and device, without personal data."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else device.type
    count = torch.get_num_threads()
    threads = f", {count} thread{'s' if count > 1 else ''}" if device.type == "cpu" else ""
    system = f"{platform.system()} {platform.machine()}"
    versions = f"MagCache {__version__}, {host}, torch {torch.__version__}"
    return {
        "versions": f"{versions}, Python {platform.python_version()}",
        "device": f"{name}{threads}, {system}",
    }


def size_of(*models: nn.Module) -> str:
    """The number of weights of models, such as "12 billion weights"."""
    count = sum(parameter.numel() for model in models for parameter in model.parameters())
    unit, name = (1e9, "billion") if count >= 1e9 else (1e6, "million")
    return f"{count / unit:.3g} {name} weights"


def measure(
    subject: Subject, speeds: Sequence[float], results: Results, on_step: Step
) -> Measurement:
    """Samples without MagCache, at each speed, and with as few steps as each speed costs.

    Samples that are already in `results` are not repeated. If one way runs out of memory, the
    others are still measured, and the next measurement tries it again.

    Raises:
        ValueError: A run has fewer than two steps.
        MemoryError: There is not enough memory even without MagCache.
    """
    check_steps(subject.steps)
    _sample_all(subject, speeds, results, on_step)
    measurement = Measurement(results, _ways(subject.steps, speeds, results), subject.samples)
    _compare_all(subject, measurement, on_step)
    return measurement


def _sample_all(subject: Subject, speeds: Sequence[float], results: Results, on_step: Step) -> None:
    warm = False
    for number in range(subject.samples):
        for place in range(1 + 2 * len(speeds)):
            ways = _ways(subject.steps, speeds, results)
            if place >= len(ways):  # two speeds cost the same number of steps
                break
            way = ways[place]
            if (way.name, number) in results.sampled:
                continue
            total = subject.samples * sum(each.steps for each in ways)
            before = number * sum(each.steps for each in ways)
            before += sum(each.steps for each in ways[:place])
            told = f"{way.name}, sample {number + 1} of {subject.samples}"
            on_step(told if warm else "warming up", before, total)
            step = partial(_tell, on_step, told, before, total)
            found = _sampled(subject, way, number, step, warm)
            warm = found is not None
            if found is not None:
                results.keep((way.name, number), *found)
                continue
            subject.freed()  # the error, now gone, held references
            if place == 0:
                raise MemoryError(
                    "there is not enough memory to sample, even without MagCache: measure at a "
                    "smaller size"
                )
            results.fail((way.name, number), OUT_OF_MEMORY)


def _sampled(
    subject: Subject, way: Way, number: int, step: Callable[[int], None], warm: bool
) -> tuple[torch.Tensor, Sampled] | None:
    """Runs one sampling; None if memory ran out."""
    try:
        if not warm:
            subject.warm_up()
        return subject.sample(way, number, step)
    except (RuntimeError, MemoryError) as error:
        if not _is_of_memory(error):
            raise
        return None


def _is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; each device reports it differently."""
    said = str(error).lower()
    kinds = torch.cuda.OutOfMemoryError, MemoryError
    return isinstance(error, kinds) or OUT_OF_MEMORY in said or "allocate memory" in said


def _tell(on_step: Step, told: str, before: int, total: int, done: int) -> None:
    on_step(told, before + done, total)


def _ways(steps: int, speeds: Sequence[float], results: Results) -> list[Way]:
    """All ways, the uncached one first. A speed's cost is estimated until it has been sampled."""
    ways = [Way(steps)]
    for speed in speeds:
        fast = Way(steps, speed)
        ways.append(fast)
        fewer = _fewer(steps, speed, results.sampled.get((fast.name, 0)))
        if fewer and (way := Way(fewer, whole=False)) not in ways:
            ways.append(way)
    return ways


def _fewer(steps: int, speed: float, sampled: Sampled | None) -> int:
    """Number of plain steps that cost no more than a run with MagCache; 0 if it skips nothing."""
    share = sampled.computed / sampled.evaluations if sampled else 1 / speed
    fewer = max(1, math.floor(steps * share + 1e-9))
    return fewer if fewer < steps else 0


def _compare_all(subject: Subject, measurement: Measurement, on_step: Step) -> None:
    results, ways = measurement.results, measurement.ways
    total = measurement.samples * len(ways)
    for number in range(measurement.samples):
        original = (ways[0].name, number)
        keys = [(way.name, number) for way in ways[1:]]
        missing = [key for key in keys if key in results.sampled and key not in results.far]
        if not missing and results.has_preview(original):
            continue
        reference = subject.images(results.output(original))
        results.about.setdefault("pictures", _size(reference))
        results.keep_far(original, None, _preview(reference))
        for place, key in enumerate(missing):
            on_step(f"comparing, sample {number + 1}", number * len(ways) + place, total)
            images = subject.images(results.output(key))
            found = _compared(subject, reference, images)
            far = Far(fmean(found.squared_errors), fmean(found.ssims), fmean(found.flips))
            results.keep_far(key, far, _preview(images))


def _compared(subject: Subject, reference: torch.Tensor, images: torch.Tensor) -> Compared:
    """Compares on the device or, if that is out of memory, where the images are."""
    try:
        return compare(reference, images, subject.device)
    except (RuntimeError, MemoryError) as error:
        if not _is_of_memory(error):
            raise
    subject.freed()
    return compare(reference, images)


def _size(images: torch.Tensor) -> str:
    count, height, width, _ = images.shape
    return f"{count} of {width}x{height} a sample" if count > 1 else f"{width}x{height}"


def _preview(images: torch.Tensor) -> Image.Image:
    """The first image, or the middle frame."""
    picture = picture_of(images[len(images) // 2])
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return picture


def known(runs: int) -> str:
    """What MagCache had learned about a model before the measurement."""
    if not runs:
        return "no run of this model: sample 1 was the first"
    return f"{runs} run{'s' if runs > 1 else ''} of this model"
