"""What may be asked for in place of the rule's settings."""

from dataclasses import dataclass

from .window import EVERY_STEP, Window


@dataclass(frozen=True)
class Target:
    """What a schedule is planned for; one of `speedup` and `error`.

    Attributes:
        speedup: Evaluations over computed ones; 1 or less skips nothing.
        error: Largest expected error of a predicted residual, as a share of its norm.
        keep: From how many computed evaluations a branch is predicted: 1, 2 or 3.
        window: The steps of the run in which skipping is allowed.
        draft: Whether a speed-up is also taken where as many plain steps would be as good.

    Raises:
        ValueError: A setting is out of its range, or both or none are given.
    """

    speedup: float | None = None
    error: float | None = None
    keep: int = 2
    window: Window = EVERY_STEP
    draft: bool = False

    def __post_init__(self) -> None:
        if (self.speedup is None) == (self.error is None):
            raise ValueError("ask for a speedup or for an error, one of the two")
        if self.speedup is not None and not 1 <= self.speedup <= 10:
            raise ValueError(f"speedup is a factor from 1 to 10, got {self.speedup}")
        if self.error is not None and not 0 <= self.error < 1:
            raise ValueError(f"error is a share from 0 to 1, got {self.error}")
        if self.keep not in (1, 2, 3):
            raise ValueError(f"keep must be 1, 2 or 3, got {self.keep}")

    @property
    def skips_nothing(self) -> bool:
        return self.speedup == 1 or self.error == 0

    def __str__(self) -> str:
        if self.speedup is not None:
            return f"speed-up {self.speedup:g} asked{', draft' if self.draft else ''}"
        return f"expected error up to {self.error:g}"
