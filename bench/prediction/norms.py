"""Compares published magnitude lists with the norms of the prior and of the small models.

    python -m bench.prediction.norms

A list gives γ, the ratio of the residual's norms between evaluations. The table shows mean |log γ|
of each list, and the mean error of the ratios from other curves at the same flow levels.
"""

import numpy as np
from rich.console import Console
from rich.table import Table

from magcache.curves import MagnitudeCurve, presets, prior

from .forecast import measured

SHIFT = 3.0  # assumed for lists without noise levels
OURS = "emoji"


def main() -> None:
    outputs = prior.mean([*prior.members().values()])["mean"].norms
    residuals = [measured(name, True)["mean"].norms for name in ("emoji", "emoji-video")]
    table = Table("list", "|log γ|", "off by the prior", "by emoji's residual", "by emoji-video's")
    for name in presets.names():
        preset = presets.load(name)
        if preset.name == OURS:
            continue
        curve = next(iter(preset.curves.values()))
        levels = curve.positions
        if curve.over == "fraction":
            levels = preset.trajectory(len(levels), SHIFT).sigmas
        logs = np.diff(curve.log_norms)
        others = [_log_ratios(other, levels) for other in (outputs, *residuals)]
        figures = [logs, *(logs - other for other in others)]
        table.add_row(name, *(f"{np.abs(each).mean():.4f}" for each in figures))
    Console(width=110).print(table)


def _log_ratios(curve: MagnitudeCurve, levels: tuple[float, ...]) -> np.ndarray:
    return np.diff([curve.log_norm(level) for level in levels])


if __name__ == "__main__":
    main()
