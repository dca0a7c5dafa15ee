"""Generating a video: load, sample, write, and compare where that is asked for."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..report import Report
from .compare import Quality, quality, side_by_side
from .files import fitted, read_image, video_size, write_video
from .models import Model, Models
from .progress import Progress, Tell, Watch
from .settings import WINDOW, Problem, Settings, seconds_of

_COUNTED = 4 * WINDOW - 3  # what the pipeline counts as frames of a section


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        settings: What was asked for.
        seconds: Time of the pipeline's call; loading and writing files is not part of it.
        report: What MagCache did.
        placed: How the model lies in memory.
        video: The video.
        picture: Curve and schedule; None where everything was computed.
        uncached_seconds, beside, quality: Without MagCache the same: its time, a video of the
            two side by side, and the difference. None unless they were asked for.
    """

    settings: Settings
    seconds: float
    report: Report
    placed: str
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
            Problem: The user can put something right.
            Cancelled: `tell` has ended the run.
        """
        with self._ready(settings, tell) as (model, image):
            frames, seconds, report, watch = _sampled(model, image, settings, tell)
            result = Result(settings, seconds, report, model.placed)
            result = replace(
                result,
                video=write_video(folder / _name(settings), frames, settings.crf),
                picture=report.save_picture(folder / "schedule.png") if report.skipped else None,
            )
            if not settings.compare:
                return result
            plain = replace(settings, use_magcache=False)
            other, took, _, again = _sampled(model, image, plain, tell, before=watch)
            again.tell("measuring the difference")
            beside = side_by_side({"Uncached": other, "MagCache": frames})
            return replace(
                result,
                uncached_seconds=took,
                beside=write_video(folder / "side-by-side.mp4", beside, settings.crf),
                quality=quality(other, frames),
            )

    @contextmanager
    def _ready(self, settings: Settings, tell: Tell) -> Iterator[tuple[Model, Image.Image]]:
        """Model and image, ready to sample, while it is this run's turn."""
        import torch

        if settings.image is None:
            raise Problem("Choose an image to start from.")
        image = read_image(settings.image)
        with self._turn:
            model = self._models.get(settings, lambda what: tell(Progress(what)))
            try:
                yield model, fitted(image, video_size(*image.size, model.resolution))
            except torch.OutOfMemoryError as error:
                self._models.forget()
                raise Problem(
                    "The GPU's memory is full. Raise the preserved memory, or close what else "
                    "uses the GPU."
                ) from error
            except BaseException:
                model.pipe.maybe_free_model_hooks()  # as the pipeline does at its own end
                raise


def _sampled(
    model: Model,
    image: Image.Image,
    settings: Settings,
    tell: Tell,
    before: Watch | None = None,
) -> tuple[np.ndarray, float, Report, Watch]:
    """A video with or without MagCache, its time, what MagCache did, and the watch over it."""
    import magcache

    asked: dict[str, Any] = {"preset": settings.kind.preset, "max_skip": 0}  # bit for bit the same
    if settings.aims:
        asked = {"speedup": settings.speedup}
    elif settings.use_magcache:
        asked |= {"threshold": settings.threshold, "max_skip": settings.max_skip}
        asked |= {"retention": settings.retention}
    with magcache.apply(model.pipe, **asked) as applied:
        watch = Watch(settings, applied, tell, before)
        frames, seconds = _run(model, image, settings, watch)
        return frames, seconds, applied.report(), watch


def _run(
    model: Model, image: Image.Image, settings: Settings, watch: Watch
) -> tuple[np.ndarray, float]:
    """Frames (F, H, W, 3) of uint8, and how long they took."""
    import torch

    watch.tell("Reading prompt and image")
    began = time.perf_counter()
    (frames,) = model.pipe(
        image=image,
        prompt=settings.prompt,
        negative_prompt=settings.negative_prompt if settings.cfg > 1 else None,
        width=image.width,
        height=image.height,
        num_frames=settings.sections * _COUNTED,
        latent_window_size=WINDOW,
        num_inference_steps=settings.steps,
        true_cfg_scale=settings.cfg,
        guidance_scale=settings.guidance,
        generator=torch.Generator("cpu").manual_seed(settings.seed),
        sampling_type=settings.kind.sampling,
        output_type="pil",
        callback_on_step_end=watch,
    ).frames
    return np.stack([np.asarray(frame) for frame in frames]), time.perf_counter() - began


def _name(settings: Settings) -> str:
    """The video's file name, after what makes it."""
    how = "full"
    if settings.use_magcache:
        how = f"{settings.speedup:g}x" if settings.aims else f"thresh{settings.threshold:g}"
    length = f"{seconds_of(settings.frames):.1f}s"
    return f"{settings.model}-{settings.seed}-{length}-{settings.steps}steps-{how}.mp4"
