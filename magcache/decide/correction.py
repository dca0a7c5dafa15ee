"""Online correction: by how much a run's own prediction errors differ from the expected ones."""

import math

LIMIT = 3.0
_TRUST = 2.0  # the calibration's own word counts as much as so many comparisons


class Correction:
    """By what factor a run's errors differ from the expected ones, within 1/3 and 3."""

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    @property
    def factor(self) -> float:
        """The geometric mean of the comparisons; few of them move it little."""
        return math.exp(self._total / (self._count + _TRUST))

    def add(self, expected: float, found: float) -> None:
        """Takes in one comparison of two relative errors; ones without a number are passed over."""
        if expected > 0 and found > 0 and math.isfinite(found):
            most = math.log(LIMIT)
            self._total += min(max(math.log(found / expected), -most), most)
            self._count += 1
