"""Online correction: by how much a run's own prediction errors differ from the expected ones."""

import math
from statistics import fmean

LIMIT = 3.0


class Correction:
    """By what factor a run's errors differ from the expected ones, within 1/3 and 3."""

    def __init__(self) -> None:
        self._logs: list[float] = []

    @property
    def factor(self) -> float:
        """The geometric mean of the comparisons, 1 before there are any."""
        return math.exp(fmean(self._logs)) if self._logs else 1.0

    def add(self, expected: float, found: float) -> None:
        """Takes in one comparison of two relative errors; ones without a number are passed over."""
        if expected > 0 and found > 0 and math.isfinite(found):
            most = math.log(LIMIT)
            self._logs.append(min(max(math.log(found / expected), -most), most))
