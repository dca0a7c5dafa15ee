"""Inputs that several nodes have."""

from collections.abc import Sequence
from typing import Any

from ....blocks import Store
from ..models import AUTO, MODEL_TYPES

STORES = ("compute device", "offload device")


def number(values: tuple[float, float, float, float], tooltip: str) -> tuple[str, dict[str, Any]]:
    """An input for a number: default, least, most, step; a whole step makes it a whole number."""
    default, low, high, step = values
    kind = "INT" if isinstance(step, int) else "FLOAT"
    limits = {"default": default, "min": low, "max": high, "step": step, "round": step}
    return kind, {**limits, "tooltip": tooltip}


def choice(values: Sequence[str], tooltip: str) -> tuple[list[str], dict[str, Any]]:
    """An input that is one of some values, the first by default."""
    return list(values), {"tooltip": tooltip}


def store_of(residuals: str) -> Store:
    """Where residuals are kept, from one of `STORES`."""
    return "offload" if residuals == STORES[1] else "device"


def model_type_input(default: str, tooltip: str) -> tuple[list[str], dict[str, Any]]:
    return [*MODEL_TYPES, AUTO], {"default": default, "tooltip": tooltip}
