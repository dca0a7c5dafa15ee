"""Online correction: the ratio of a run's measured prediction errors to the expected ones."""

import math
from statistics import fmean

LIMIT = 3.0


class Correction:
    """The factor between a run's errors and the expected ones, limited to 1/3 to 3."""

    def __init__(self) -> None:
        self._logs: list[float] = []

    @property
    def factor(self) -> float:
        """The geometric mean of the comparisons; 1 if there are none yet."""
        return math.exp(fmean(self._logs)) if self._logs else 1.0

    def add(self, expected: float, found: float) -> None:
        """Adds a comparison of two relative errors, unless one is 0, negative or not finite."""
        if expected > 0 and found > 0 and math.isfinite(found):
            most = math.log(LIMIT)
            self._logs.append(min(max(math.log(found / expected), -most), most))
