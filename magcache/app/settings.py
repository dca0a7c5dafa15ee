"""What a user asks for: the settings of one generation, checked."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..curves import presets
from ..decide import Course, Target, decider_for, rule_of

FPS = 30
WINDOW = 9  # latent frames of a section; the models were trained with it
FRAMES = 4 * WINDOW  # that a section adds to the video
LONGEST = 120.0  # seconds
SHIFT = 7.0  # of the noise levels of a video of full size
MODES = ("Threshold", "Target speed-up")


class Problem(ValueError):
    """Something that the user can put right; the message says how."""


@dataclass(frozen=True)
class Kind:
    """One of the two FramePack models.

    Attributes:
        name: Its name in the app.
        weights: Its transformer on the Hugging Face Hub.
        sampling: How its sections follow each other, diffusers' `sampling_type`.
        preset: Its published curve.
    """

    name: str
    weights: str
    sampling: Literal["inverted_anti_drifting", "vanilla"]
    preset: str


KINDS = {
    kind.name: kind
    for kind in (
        Kind("FramePack", "lllyasviel/FramePackI2V_HY", "inverted_anti_drifting", "framepack"),
        Kind("FramePack-F1", "lllyasviel/FramePack_F1_I2V_HY_20250503", "vanilla", "framepack_f1"),
    )
}


@dataclass(frozen=True)
class Settings:
    """The settings of one generation; names and ranges are those of FramePack's own demo.

    Attributes:
        image: The uploaded file, None before there is one.
        prompt, negative_prompt: The negative one counts with `cfg` above 1 only.
        seconds: Length of the video.
        seed, steps, guidance, cfg: `guidance` is the distilled one, `cfg` classifier-free
            guidance, which calls the model twice.
        model, folder: Name of the kind; a folder with its weights, or "" to download them.
        preserved: GB of GPU memory to leave to everything but weights.
        crf: Compression of the video, from 1, the least, to 51.
        use_magcache: Off computes every evaluation.
        mode: "Threshold", with the three settings of the published rule, or "Target speed-up".
        threshold, max_skip, retention, speedup: See `magcache.apply`.
        compare: Sample a second time without MagCache and compare the two.

    Raises:
        Problem: A setting is out of its range.
    """

    image: Path | None = None
    prompt: str = ""
    negative_prompt: str = ""
    seconds: float = 5.0
    seed: int = 31337
    steps: int = 25
    guidance: float = 10.0
    cfg: float = 1.0
    model: str = "FramePack"
    folder: str = ""
    preserved: float = 6.0
    crf: int = 16
    use_magcache: bool = True
    mode: str = "Threshold"
    threshold: float = 0.1
    max_skip: int = 3
    retention: float = 0.2
    speedup: float = 2.0
    compare: bool = False

    def __post_init__(self) -> None:
        for name, title, low, high in _RANGES:
            value = getattr(self, name)
            if not isinstance(value, int | float) or not low <= value <= high:
                raise Problem(f"{title} must be from {low:g} to {high:g}, got {value}.")
            if name in _WHOLE and value % 1:
                raise Problem(f"{title} must be a whole number, got {value}.")
        for name in _WHOLE:  # a page may send 25.0
            object.__setattr__(self, name, int(getattr(self, name)))
        if self.model not in KINDS:
            raise Problem(f"There is no model {self.model!r}: choose {' or '.join(KINDS)}.")
        if self.mode not in MODES:
            raise Problem(f"There is no mode {self.mode!r}: choose {' or '.join(MODES)}.")

    @property
    def kind(self) -> Kind:
        return KINDS[self.model]

    @property
    def sections(self) -> int:
        """How many sections the video is sampled in."""
        return max(1, round(self.seconds * FPS / FRAMES))

    @property
    def frames(self) -> int:
        """How many frames the video will have."""
        return self.sections * FRAMES + 1

    @property
    def aims(self) -> bool:
        """Whether a target speed-up is asked for."""
        return self.use_magcache and self.mode == "Target speed-up"

    def schedule(self) -> str:
        """What a section is expected to compute (#) and skip (.).

        At the noise levels of a video of full size; by a target speed-up before anything was
        learned of the model.
        """
        if not self.use_magcache or not (self.aims or self.max_skip):
            return "#" * self.steps
        preset = presets.load(self.kind.preset)
        course = Course.of_steps(preset.trajectory(self.steps, SHIFT))
        if self.aims:
            return str(decider_for(Target(self.speedup), course, guidance=self.cfg).schedule())
        rule = rule_of(
            preset, threshold=self.threshold, max_skip=self.max_skip, retention=self.retention
        )
        return str(decider_for(rule, course, preset.curves).schedule())


_WHOLE = ("seed", "steps", "crf", "max_skip")
_RANGES = (
    ("seconds", "The length in seconds", 1, LONGEST),
    ("seed", "The seed", 0, 2**63 - 1),
    ("steps", "Steps", 1, 100),
    ("guidance", "Distilled CFG Scale", 1, 32),
    ("cfg", "CFG Scale", 1, 32),
    ("preserved", "The preserved memory", 0, 128),
    ("crf", "MP4 Compression", 1, 51),
    ("threshold", "MagCache_thresh", 0, 1),
    ("max_skip", "MagCache_K", 0, 10),
    ("retention", "The retention ratio", 0, 1),
    ("speedup", "The target speed-up", 1, 10),
)


def seconds_of(frames: int) -> float:
    """Length of a video."""
    return frames / FPS


def clock(seconds: float) -> str:
    """A duration as people write it: "48 s", "4:05 min"."""
    whole = math.ceil(seconds) if seconds > 10 else round(seconds, 1)
    return f"{whole:g} s" if whole < 100 else f"{whole // 60:.0f}:{whole % 60:02.0f} min"
