"""The target of a plan, given instead of the rule's settings."""

from dataclasses import dataclass

from .window import EVERY_STEP, Window


@dataclass(frozen=True)
class Target:
    """What to plan a schedule for: either `speedup` or `error`.

    Attributes:
        speedup: Number of evaluations over the number of computed ones; 1 skips nothing.
        error: Largest expected relative error of a predicted residual.
        keep: How many computed evaluations of a branch to predict from: 1, 2 or 3.
        window: The steps of the run in which skipping is allowed.
        draft: Whether to take a speed-up even if as many plain steps would be as good.

    Raises:
        ValueError: A setting is out of range, or not exactly one of the two is given.
    """

    speedup: float | None = None
    error: float | None = None
    keep: int = 2
    window: Window = EVERY_STEP
    draft: bool = False

    def __post_init__(self) -> None:
        if (self.speedup is None) == (self.error is None):
            raise ValueError("give either a speedup or an error")
        if self.speedup is not None and not 1 <= self.speedup <= 10:
            raise ValueError(f"speedup must be between 1 and 10, got {self.speedup}")
        if self.error is not None and not 0 <= self.error < 1:
            raise ValueError(f"error must be at least 0 and below 1, got {self.error}")
        if self.keep not in (1, 2, 3):
            raise ValueError(f"keep must be 1, 2 or 3, got {self.keep}")

    @property
    def skips_nothing(self) -> bool:
        return self.speedup == 1 or self.error == 0

    def __str__(self) -> str:
        if self.speedup is not None:
            return f"target speed-up {self.speedup:g}{', draft' if self.draft else ''}"
        return f"expected error up to {self.error:g}"
