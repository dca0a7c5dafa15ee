"""Inputs that several nodes share, and how nodes find a calibration."""

from collections.abc import Collection, Sequence
from typing import Any

from ....blocks import Store
from .. import calibrations
from ..models import AUTO, MODEL_TYPES, OLD_NAMES

Entry = tuple[Any, dict[str, Any]]
"""An input, as an entry of ComfyUI's `INPUT_TYPES`."""

AUTOMATIC, PUBLISHED = "automatic", "published"
STORES: dict[str, Store] = {"compute device": "device", "offload device": "offload"}
RESIDUALS = "Where residuals are kept between evaluations."
HIDDEN = {"node_id": "UNIQUE_ID"}


class Choices(list[str]):
    """The values that an input offers. Hidden ones, of older workflows, are accepted too.

    VALIDATE_INPUTS is no place for this: ComfyUI repeats its message for each input it takes, so
    a node has room for only one message there.
    """

    def __init__(self, offered: Sequence[str], hidden: Collection[str]) -> None:
        super().__init__(offered)
        self._hidden = hidden

    def __contains__(self, value: object) -> bool:
        return super().__contains__(value) or value in self._hidden


def entry(kind: str | Sequence[str], tooltip: str, **more: Any) -> Entry:
    """An input of a type, or a choice of values, of which the first is the default."""
    kept = isinstance(kind, str | Choices)
    return kind if kept else list(kind), {**more, "tooltip": tooltip}


def number(values: tuple[float, float, float, float], tooltip: str) -> Entry:
    """An input for a number: default, minimum, maximum, step. An integer step makes it an INT."""
    default, low, high, step = values
    kind = "INT" if isinstance(step, int) else "FLOAT"
    return entry(kind, tooltip, default=default, min=low, max=high, step=step, round=step)


MODEL = entry("MODEL", "The diffusion model, behind its LoRAs.")


def model_type_input(tooltip: str) -> Entry:
    return entry(Choices([AUTO, *MODEL_TYPES], OLD_NAMES), tooltip)


def threshold(default: float, most: float, step: float) -> Entry:
    return number(
        (default, 0.0, most, step),
        "Largest estimated error that may add up while skipping. Lower is closer to the original; "
        "0 skips nothing.",
    )


def most_skipped(default: int, most: int) -> Entry:
    tooltip = "How many evaluations may be skipped in a row; 0 skips nothing."
    return number((default, 0, most, 1), tooltip)


def last_step(least: int, most: int) -> Entry:
    tooltip = "Last step that may be skipped; -1 is the last step of the run."
    return number((-1, least, most, 1), tooltip)


class Calibrated:
    """A node with the input `calibration`: one of `WORDS`, or a file of MagCache Calibration."""

    WORDS: tuple[str, ...] = (AUTOMATIC,)

    @classmethod
    def calibration_input(cls, tooltip: str, **more: Any) -> Entry:
        return entry([*cls.WORDS, *calibrations.names()], tooltip, **more)

    @classmethod
    def IS_CHANGED(cls, calibration: str | None = None, **_: Any) -> float:
        return calibrations.changed(calibration)
