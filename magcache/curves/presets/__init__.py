"""Published magnitude curves with their recommended settings, one JSON file each.

Adding a preset is adding a file. NOTICE and each file's `source` name where the figures are from.
"""

import difflib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..magnitude import MagnitudeCurve, Trajectory, resampled_trajectory, shifted_sigmas

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Preset:
    """A published list of magnitude ratios and what it was published with.

    Attributes:
        name: The preset's name, that of its file.
        family: The model family it belongs to; it fits no other.
        steps: Length of the list, the step count it was measured at.
        threshold, retention, max_skip: Recommended settings; None where none are published.
        refresh: Fraction of the trajectory that is always computed (FLUX), or None.
        ratios: Magnitude ratio of each step, a branch.
        sigmas: Noise level of each step, or None where the schedule is unknown.
        switch: Index and σ of the change of experts (Wan 2.2), or None.
        reference: Sampler, schedule and guidance of the measurement.
        source: Where the figures come from.
        note: What a user should know about the list.
    """

    name: str
    family: str
    steps: int
    threshold: float | None
    retention: float | None
    max_skip: int | None
    refresh: float | None
    ratios: dict[str, tuple[float, ...]]
    sigmas: tuple[float, ...] | None
    switch: tuple[int, float] | None
    reference: dict[str, Any]
    source: str
    note: str

    @cached_property
    def curves(self) -> dict[str, MagnitudeCurve]:
        """The magnitude curve of each branch."""
        build = MagnitudeCurve.from_ratios
        return {b: build(ratios, self.sigmas, self.switch) for b, ratios in self.ratios.items()}

    def trajectory(self, steps: int | None = None, shift: float | None = None) -> Trajectory:
        """The list's own schedule at `steps` steps, or an evenly spaced one with `shift`."""
        return resampled_trajectory(self.sigmas or shifted_sigmas(self.steps), steps, shift)


def names() -> list[str]:
    """Every preset's name, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def load(name: str) -> Preset:
    """Reads a preset.

    Raises:
        ValueError: There is none of that name; the message lists the nearest.
    """
    path = _FOLDER / f"{name}.json"
    if name not in names():
        near = difflib.get_close_matches(name, names(), cutoff=0.4) or names()
        raise ValueError(f"no preset {name!r}; did you mean {', '.join(near)}?")
    return read(path)


def read(path: Path) -> Preset:
    """Reads a preset file; see `Preset` for what it holds."""
    data = json.loads(path.read_text(encoding="utf-8"))
    fixed, switch = data.get("always_compute"), data.get("switch")
    return Preset(
        name=data["name"],
        family=data["family"],
        steps=data["steps"],
        threshold=data["threshold"],
        retention=data["retention"],
        max_skip=data["max_skip"],
        refresh=fixed["index"] / fixed["of_steps"] if fixed else None,
        ratios={branch: tuple(ratios) for branch, ratios in data["ratios"].items()},
        sigmas=tuple(data["sigmas"]) if data["sigmas"] else None,
        switch=(switch["index"], switch["sigma"]) if switch else None,
        reference=data["reference"],
        source=data["source"],
        note=data.get("note", ""),
    )
