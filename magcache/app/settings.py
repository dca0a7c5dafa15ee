"""The settings of one generation, checked."""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ..curves import Trajectory, presets, shifted_sigmas
from ..decide import Course, Target, decider_for, rule_of

FPS = 30
WINDOW = 9  # latent frames per section; the models were trained with it
FRAMES = 4 * WINDOW  # frames that a section adds to the video
LONGEST = 120.0  # seconds
SHIFT, CLIP_SHIFT = 7.0, 3.0  # of the noise levels; FramePack's is for a video of full size
CLIP = 8  # frames of the emoji model
CLIP_CFG = 3.0


class Problem(ValueError):
    """A problem that the user can fix; the message says how."""


@dataclass(frozen=True)
class Kind:
    """A model: the small trained one, or one of the two FramePack models.

    Attributes:
        name: Its name in the app.
        weights: Its transformer on the Hugging Face Hub; "" if it comes with MagCache.
        sampling: The order of its sections, diffusers' `sampling_type`.
        preset: Its published curve, "" without one.
        fps: Frames per second of its videos.
        zoom: Factor by which its pixels are enlarged.
    """

    name: str
    weights: str = ""
    sampling: Literal["inverted_anti_drifting", "vanilla"] = "vanilla"
    preset: str = ""
    fps: int = FPS
    zoom: int = 1

    @property
    def small(self) -> bool:
        """Whether it draws a short clip from a few words, on any computer."""
        return not self.weights


EMOJI = "Emoji"
KINDS = {
    kind.name: kind
    for kind in (
        Kind(EMOJI, fps=8, zoom=8),
        Kind("FramePack", "lllyasviel/FramePackI2V_HY", "inverted_anti_drifting", "framepack"),
        Kind("FramePack-F1", "lllyasviel/FramePack_F1_I2V_HY_20250503", "vanilla", "framepack_f1"),
    )
}


@dataclass(frozen=True)
class Settings:
    """The settings of one generation; their ranges are those of FramePack's own demo.

    Attributes:
        model: Name of the model. The emoji model uses only `prompt`, `seed`, `steps`, `crf`,
            `speedup` and `compare`.
        image: The uploaded file, None without one.
        prompt, negative_prompt: The negative prompt is used only if `cfg` is above 1.
        seconds: Length of the video.
        seed, steps, guidance, cfg: `guidance` is distilled guidance; `cfg` is classifier-free
            guidance, which calls the model twice.
        folder: Folder with the weights, or "" to download them.
        preserved: GB of GPU memory to leave free for everything but weights.
        crf: Compression of the video, from 1 (least) to 51.
        speedup: Target speed-up; 1 computes every evaluation.
        rule: Use the published rule instead of `speedup`, with `threshold`, `max_skip` and
            `retention`, see `magcache.apply`.
        compare: Sample again without MagCache and compare the two.

    Raises:
        Problem: A setting is out of range.
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
    speedup: float = 2.0
    rule: bool = False
    threshold: float = 0.1
    max_skip: int = 3
    retention: float = 0.2
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
            raise Problem(f"There is no model {self.model!r}: choose {', '.join(KINDS)}.")

    @property
    def kind(self) -> Kind:
        return KINDS[self.model]

    @property
    def sections(self) -> int:
        """Number of sections of the video."""
        return 1 if self.kind.small else max(1, round(self.seconds * FPS / FRAMES))

    @property
    def frames(self) -> int:
        """Number of frames of the video."""
        return CLIP if self.kind.small else self.sections * FRAMES + 1

    @property
    def by_rule(self) -> bool:
        """Whether the published rule decides."""
        return self.rule and bool(self.kind.preset)

    def schedule(self) -> str:
        """What a section is expected to compute (#) and skip (.).

        It assumes FramePack's noise levels for a video of full size and, for a speed-up, that
        nothing has been learned about the model yet.
        """
        if not self.by_rule:
            small, steps = self.kind.small, self.steps
            sigmas = _clip_sigmas(steps) if small else shifted_sigmas(steps, SHIFT)
            cfg = CLIP_CFG if small else self.cfg
            course = Course.of_steps(Trajectory(sigmas))
            return str(decider_for(Target(self.speedup), course, guidance=cfg).schedule())
        preset = presets.load(self.kind.preset)
        course = Course.of_steps(preset.trajectory(self.steps, SHIFT))
        rule = rule_of(
            preset, threshold=self.threshold, max_skip=self.max_skip, retention=self.retention
        )
        return str(decider_for(rule, course, preset.curves).schedule())


@cache
def _clip_sigmas(steps: int) -> tuple[float, ...]:
    """The noise levels that the emoji model is sampled at."""
    from diffusers import FlowMatchEulerDiscreteScheduler  # slow to load

    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=CLIP_SHIFT)
    scheduler.set_timesteps(steps)
    return tuple(scheduler.sigmas[:-1].tolist())


_WHOLE = ("seed", "steps", "crf", "max_skip")
_RANGES = (
    ("seconds", "The length in seconds", 1, LONGEST),
    ("seed", "The seed", 0, 2**63 - 1),
    ("steps", "Steps", 1, 100),
    ("guidance", "Distilled CFG", 1, 32),
    ("cfg", "CFG", 1, 32),
    ("preserved", "The GPU memory to leave free", 0, 128),
    ("crf", "Compression", 1, 51),
    ("threshold", "The threshold", 0, 1),
    ("max_skip", "K", 0, 10),
    ("retention", "The retention", 0, 1),
    ("speedup", "The speed-up", 1, 10),
)


def seconds_of(settings: Settings) -> float:
    """Length of a video."""
    return settings.frames / settings.kind.fps


def clock(seconds: float) -> str:
    """A readable duration, such as "48 s" or "4:05 min"."""
    whole = math.ceil(seconds) if seconds > 10 else round(seconds, 1)
    return f"{whole:g} s" if whole < 100 else f"{whole // 60:.0f}:{whole % 60:02.0f} min"
