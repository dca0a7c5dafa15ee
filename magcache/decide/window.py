"""The steps of a run in which skipping is allowed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """The steps from `start_step` to `end_step`, inclusive; negative ones count from the end.

    Raises:
        ValueError: No run of any length has a step in this range.
    """

    start_step: int = 0
    end_step: int = -1

    def __post_init__(self) -> None:
        same_end = (self.start_step < 0) == (self.end_step < 0)
        if same_end and self.end_step < self.start_step:
            raise ValueError(
                f"end_step {self.end_step} lies before start_step {self.start_step}, "
                "so no step could be skipped"
            )

    def __str__(self) -> str:
        return f"steps {self.start_step} to {self.end_step}"

    def allows(self, step: int, steps: int) -> bool:
        """Whether skipping is allowed in `step` of a run of `steps`."""
        first = self.start_step + steps if self.start_step < 0 else self.start_step
        last = self.end_step + steps if self.end_step < 0 else self.end_step
        return first <= step <= last


EVERY_STEP = Window()
