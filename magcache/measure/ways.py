"""The ways of sampling to compare."""

import re
from dataclasses import dataclass

FASTEST = 4.0
_MOST = 6  # speeds; each takes two runs per sample


@dataclass(frozen=True)
class Way:
    """One way of sampling.

    Attributes:
        steps: Steps of the sampler.
        speedup: MagCache's target speed-up, None without MagCache.
        whole: Whether the run has the full number of steps.
    """

    steps: int
    speedup: float | None = None
    whole: bool = True

    @property
    def name(self) -> str:
        """Name in the table, the picture and the stored results."""
        if self.speedup is not None:
            return f"MagCache {self.speedup:g}x"
        return f"{'uncached' if self.whole else 'plain'}, {self.steps} steps"


def speeds_of(text: str) -> list[float]:
    """Reads speeds from a text such as "1.5, 2, 3": sorted, without duplicates.

    Raises:
        ValueError: The text has something else in it, or too many speeds.
    """
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    found = sorted({_speed(word) for word in words})
    if not 1 <= len(found) <= _MOST:
        raise ValueError(f'give 1 to {_MOST} speeds such as "1.5, 2, 3", not {len(found)}')
    return found


def check_steps(steps: int) -> None:
    """Checks that there is something to skip.

    Raises:
        ValueError: There are fewer than two steps.
    """
    if steps < 2:
        raise ValueError(f"a run of {steps} step leaves nothing to skip: measure 8 or more")


def _speed(word: str) -> float:
    try:
        speed = float(word.lower().rstrip("x\u00d7"))
    except ValueError:
        speed = 0.0
    if not 1 < speed <= FASTEST:
        raise ValueError(
            f"{word[:20]!r} is not a speed: give numbers above 1 and up to {FASTEST:g}, such as "
            '"1.5, 2, 3"'
        )
    return speed
