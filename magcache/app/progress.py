"""Reports the progress of a run after each evaluation."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from .settings import Settings

if TYPE_CHECKING:
    from ..hosts.diffusers import Session
    from .models import Model

_FRAMES, _HEIGHT = 3, 120  # frames, and pixels, of a section's picture


class Cancelled(Exception):
    """The user cancelled the run."""


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        stage: The current task.
        done, total: Finished evaluations, and all of them; 0 while a model is loading.
        left: Estimated seconds left; None while there are too few evaluations to tell.
        schedules: For each section begun, `#` for computed and `.` for skipped evaluations.
        strips: A picture of each finished section, with a few frames side by side.
    """

    stage: str
    done: int = 0
    total: int = 0
    left: float | None = None
    schedules: tuple[str, ...] = ()
    strips: tuple[Image.Image, ...] = ()


Tell = Callable[[Progress], None]
"""Called with the progress; raises `Cancelled` to end the run."""


class Watch:
    """A pipeline callback that reports each evaluation.

    Args:
        model: The model.
        settings: The settings of the run.
        applied: MagCache's session on the pipeline.
        tell: Called with the progress.
        before: The watch of the run that this one is compared with.
    """

    def __init__(
        self, model: "Model", settings: Settings, applied: "Session", tell: Tell,
        before: "Watch | None" = None,
    ) -> None:  # fmt: skip
        self._model = model
        self._settings, self._applied, self._tell = settings, applied, tell
        self._strips = before._strips if before else ()
        self._note = "Uncached, to compare: " if before else ""
        self._first = 0.0  # time at which the first evaluation was done
        self._done = 0

    def tell(self, stage: str) -> None:
        """Reports a stage of the run."""
        total, left = self._settings.steps * self._settings.sections, None
        if self._done > 1:
            each = (time.monotonic() - self._first) / (self._done - 1)
            left = each * (total - self._done)
        seen = tuple(self._applied.report().schedule.split())
        self._tell(Progress(self._note + stage, self._done, total, left, seen, self._strips))

    def __call__(self, pipe: Any, step: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        section, doing = self._done // self._settings.steps + 1, "Sampling"
        self._first = self._first or time.monotonic()
        self._done += 1
        if step + 1 == self._settings.steps:
            doing = "Decoding"
            if not self._note:
                self._strips = (
                    *self._strips,
                    _strip(self._model.frames(tensors["latents"], _FRAMES)),
                )
        sections = self._settings.sections
        self.tell(f"{doing} section {section} of {sections}" if sections > 1 else doing)
        return {}


def _strip(images: Sequence[Image.Image]) -> Image.Image:
    """A few frames of a section side by side."""
    width = round(_HEIGHT * images[0].width / images[0].height)
    strip = Image.new("RGB", (len(images) * width, _HEIGHT))
    for place, image in enumerate(images):
        strip.paste(image.resize((width, _HEIGHT)), (place * width, 0))
    return strip
