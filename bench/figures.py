"""How the benchmarks summarise the quality of many samplings."""

from collections.abc import Sequence

import numpy as np


def mean_tenth_least(values: Sequence[float]) -> str:
    """Mean, 10th percentile and minimum: "40.2 / 36.0 / 34.9"."""
    figures = np.mean(values), np.quantile(values, 0.1), np.min(values)
    return " / ".join(f"{each:.1f}" for each in figures)
