"""How a run goes: what is told while it is under way, and how it is ended."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from .settings import Settings

if TYPE_CHECKING:
    from ..hosts.diffusers import Session

_COSTS = {"#": 1.0, ".": 0.1}  # of an evaluation, for the time left
_FRAMES, _HEIGHT = 3, 120  # of a section's picture
R = TypeVar("R")


class Cancelled(Exception):
    """The user has ended the run."""


@dataclass
class Job:
    """One run of one user, which may be cancelled from another thread."""

    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        stage: What is under way.
        sections, steps: How many sections there will be, and evaluations in each.
        began: When the run began, by `time.monotonic`.
        schedules: Of each section begun, `#` for computed and `.` for skipped evaluations.
        done: Share of the whole work, 0 to 1.
        ends: When it is expected to end, or None where that is not known yet.
        strips: A picture of each finished section, a few frames side by side.
    """

    stage: str
    sections: int
    steps: int
    began: float
    schedules: tuple[str, ...] = ()
    done: float = 0.0
    ends: float | None = None
    strips: tuple[Image.Image, ...] = ()


Tell = Callable[[Progress], None]


class Watch:
    """The pipeline's callback: tells of each evaluation, and ends the run when cancelled.

    Args:
        settings: What is sampled.
        job: May be cancelled.
        tell: Is told of the progress.
        before: The watch over a sampling that this one is compared with.

    Attributes:
        applied: MagCache on the pipeline, while it samples.
    """

    def __init__(
        self, settings: Settings, job: Job, tell: Tell, before: "Watch | None" = None
    ) -> None:
        self.applied: Session | None = None
        self.strips: tuple[Image.Image, ...] = before.strips if before else ()
        self._job, self._tell, self._settings = job, tell, settings
        self._planned = [settings.schedule()] * settings.sections
        self._after = settings.compare and not before and settings.steps * settings.sections
        self._before = before.cost if before else 0.0
        self._began: float = before._began if before else time.monotonic()
        self._note = "Uncached, to compare: " if before else ""
        self._section = 0

    @property
    def cost(self) -> float:
        """Of all that was planned, in computed evaluations."""
        return _cost(self._planned)

    def tell(self, stage: str) -> None:
        """Tells of a stage of the run.

        Raises:
            Cancelled: The job is cancelled.
        """
        if self._job.cancelled.is_set():
            raise Cancelled
        seen = tuple(self.applied.report().schedule.split()) if self.applied else ()
        spent = self._before + _cost(seen)
        left = self._after + _cost(self._planned[len(seen) :])
        left += _cost(p[len(s) :] for p, s in zip(self._planned, seen, strict=False))
        now = time.monotonic()
        ends = now + (now - self._began) * left / spent if spent else None
        sections, steps = self._settings.sections, self._settings.steps
        done = spent / (spent + left) if left else 1.0
        self._tell(
            Progress(
                self._note + stage, sections, steps, self._began, seen, done, ends, self.strips
            )
        )

    def __call__(self, pipe: Any, step: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        doing = "Sampling"
        if step + 1 == self._settings.steps:
            doing = "Decoding"
            if not self._note:
                self.strips = (*self.strips, _strip(pipe, tensors["latents"]))
        self.tell(f"{doing} section {self._section + 1} of {self._settings.sections}")
        self._section += doing == "Decoding"
        return {}


def _cost(schedules: Iterable[str]) -> float:
    return sum(_COSTS[symbol] for schedule in schedules for symbol in schedule)


def _strip(pipe: Any, latents: Any) -> Image.Image:
    """A few frames of a section side by side, each decoded by itself."""
    places = [round(i * (latents.shape[2] - 1) / (_FRAMES - 1)) for i in range(_FRAMES)]
    chosen = latents[0, :, places].transpose(0, 1)[:, :, None]
    scaled = chosen.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor
    frames = pipe.vae.decode(scaled, return_dict=False)[0][:, :, 0]
    images = pipe.video_processor.postprocess(frames, output_type="pil")
    width = round(_HEIGHT * images[0].width / images[0].height)
    strip = Image.new("RGB", (_FRAMES * width, _HEIGHT))
    for place, image in enumerate(images):
        strip.paste(image.resize((width, _HEIGHT)), (place * width, 0))
    return strip


def followed(work: Callable[[Tell], R], job: Job) -> Iterator[Progress | R]:
    """Runs `work` in a thread and yields the newest that it tells, at least once a second.

    The last thing yielded is what it returns. Where the iterator is closed before, the job is
    cancelled.
    """
    told: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            told.put(("returned", work(lambda progress: told.put(("told", progress)))))
        except BaseException as error:  # handed to the one who follows
            told.put(("raised", error))

    thread = threading.Thread(target=run, name="magcache app", daemon=True)
    thread.start()
    what: str = ""
    event: Any = None
    try:
        while what != "returned":
            try:
                what, event = told.get(timeout=1)
                while what == "told" and not told.empty():
                    what, event = told.get()
            except queue.Empty:
                pass
            if what == "raised":
                raise event
            if what:
                yield event
    finally:
        job.cancelled.set()
        thread.join()
