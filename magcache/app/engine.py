"""Generates a video: loads the model, samples, writes files, and compares if asked to."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..report import Report
from .compare import Quality, quality, side_by_side
from .files import read_image, write_video
from .models import Model, Models
from .progress import Progress, Tell, Watch
from .settings import Problem, Settings, seconds_of


@dataclass(frozen=True)
class Result:
    """The result of a generation.

    Attributes:
        settings: The user's settings.
        seconds: Time of the pipeline's call, without loading and writing files.
        report: What MagCache did.
        placed: How the model is placed in memory.
        note: A note to the user about the prompt.
        video: The video.
        picture: Curve and schedule; None if everything was computed.
        uncached_seconds, beside, quality: The comparison with a run without MagCache: its time, a
            video of both side by side, and the difference. None unless the user asked for it.
    """

    settings: Settings
    seconds: float
    report: Report
    placed: str
    note: str = ""
    video: Path | None = None
    picture: Path | None = None
    uncached_seconds: float | None = None
    beside: Path | None = None
    quality: Quality | None = None


class Engine:
    """Generates videos, one at a time.

    Args:
        models: Loads the models.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._turn = threading.Lock()

    def generate(self, settings: Settings, folder: Path, tell: Tell) -> Result:
        """Makes a video in `folder`.

        Raises:
            Problem: Something that the user can fix is wrong.
            Cancelled: `tell` ended the run.
        """
        kind = settings.kind
        shown: dict[str, Any] = {"crf": settings.crf, "fps": kind.fps}
        with self._ready(settings, tell) as (model, given, note):
            frames, seconds, report, watch = _sampled(model, given, settings, tell)
            result = Result(settings, seconds, report, model.placed, note)
            video = folder / _name(settings)
            result = replace(
                result,
                video=write_video(video, frames, zoom=kind.zoom, **shown),
                picture=report.save_picture(folder / "schedule.png") if report.skipped else None,
            )
            if not settings.compare:
                return result
            plain = replace(settings, rule=False, speedup=1)
            other, took, _, again = _sampled(model, given, plain, tell, before=watch)
            again.tell("measuring the difference")
            beside = side_by_side({"Uncached": other, "MagCache": frames}, kind.zoom)
            return replace(
                result,
                uncached_seconds=took,
                beside=write_video(folder / "side-by-side.mp4", beside, **shown),
                quality=quality(other, frames),
            )

    @contextmanager
    def _ready(self, settings: Settings, tell: Tell) -> Iterator[tuple[Model, Any, str]]:
        """The model, its input and a note about that, while it is this run's turn."""
        import torch

        image = None
        if not settings.kind.small:
            if settings.image is None:
                raise Problem("Choose an image to start from.")
            image = read_image(settings.image)  # fails early, before a model is loaded
        with self._turn:
            model = self._models.get(settings, lambda what: tell(Progress(what)))
            try:
                yield model, *model.ready(settings, image)
            except torch.OutOfMemoryError as error:
                self._models.forget()
                raise Problem(
                    'The GPU ran out of memory. Raise "GPU memory to leave free", or close other '
                    "programs that use the GPU."
                ) from error
            except BaseException:
                model.pipe.maybe_free_model_hooks()  # as the pipeline itself does at its end
                raise


def _sampled(
    model: Model, given: Any, settings: Settings, tell: Tell, before: Watch | None = None
) -> tuple[np.ndarray, float, Report, Watch]:
    """Samples a video; returns its frames, the seconds, MagCache's report, and the watch."""
    import magcache

    asked: dict[str, Any] = {"speedup": settings.speedup}
    if settings.by_rule:
        asked = {"preset": settings.kind.preset, "threshold": settings.threshold}
        asked |= {"max_skip": settings.max_skip, "retention": settings.retention}
    with magcache.apply(model.pipe, **asked) as applied:
        watch = Watch(model, settings, applied, tell, before)
        watch.tell("Reading the prompt")
        began = time.perf_counter()
        frames = model.sample(given, settings, watch)
        return frames, time.perf_counter() - began, applied.report(), watch


def _name(settings: Settings) -> str:
    """A file name for the video, made from its settings."""
    how = f"thresh{settings.threshold:g}" if settings.by_rule else f"{settings.speedup:g}x"
    length = f"{seconds_of(settings):.1f}s"
    return f"{settings.model}-{settings.seed}-{length}-{settings.steps}steps-{how}.mp4"
