"""The ways of sampling that are compared."""

import re
from dataclasses import dataclass

FASTEST = 4.0
_MOST = 6  # speeds: each takes two samplings a sample


@dataclass(frozen=True)
class Way:
    """One way of sampling; two alike are the same.

    Attributes:
        steps: Of the sampler.
        speedup: The speed that MagCache is asked for, None without it.
        whole: Whether these are all of the steps.
    """

    steps: int
    speedup: float | None = None
    whole: bool = True

    @property
    def name(self) -> str:
        """As table and picture show it, and as results are filed under."""
        if self.speedup is not None:
            return f"MagCache {self.speedup:g}x"
        return f"{'uncached' if self.whole else 'plain'}, {self.steps} steps"


def speeds_of(text: str) -> list[float]:
    """Speeds from a text like "1.5, 2, 3", each once, the slowest first.

    Raises:
        ValueError: It holds something else, or too many.
    """
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    found = sorted({_speed(word) for word in words})
    if not 1 <= len(found) <= _MOST:
        raise ValueError(f'give 1 to {_MOST} speeds such as "1.5, 2, 3", not {len(found)}')
    return found


def check_steps(steps: int) -> None:
    """Makes sure that there is something to skip.

    Raises:
        ValueError: There is one step, or none.
    """
    if steps < 2:
        raise ValueError(f"a sampling of {steps} step leaves nothing to skip: measure 8 or more")


def _speed(word: str) -> float:
    try:
        speed = float(word.lower().rstrip("x\u00d7"))
    except ValueError:
        speed = 0.0
    if not 1 < speed <= FASTEST:
        raise ValueError(
            f"{word[:20]!r} is no speed: give numbers above 1 and up to {FASTEST:g}, such as "
            '"1.5, 2, 3"'
        )
    return speed
