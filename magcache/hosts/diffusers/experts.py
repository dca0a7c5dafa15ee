"""The transformers of a pipeline: which can be accelerated, and by which part of a curve."""

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from ...blocks import StackNotFound, family_of, find_stack, plain_module
from ...curves import Calibration, CalibrationError, presets
from .models import FAMILIES, GUESSES
from .session import Expert, whole_compile

log = logging.getLogger("magcache")
_COMPONENTS = ("transformer", "transformer_2")


def models_of(target: Any) -> list[nn.Module]:
    """The transformers of a pipeline, or the one that is given.

    Raises:
        TypeError: There is none.
    """
    found = [target] if isinstance(target, nn.Module) else []
    found = found or [getattr(target, name, None) for name in _COMPONENTS]
    models = [model for model in found if isinstance(model, nn.Module)]
    if not models:
        raise TypeError(
            f"{type(target).__name__} is neither a pipeline with a transformer nor a transformer"
        )
    return models


def find_experts(
    models: Sequence[nn.Module], source: Calibration | None
) -> tuple[list[Expert], list[str]]:
    """The transformers that can be accelerated, and why others cannot."""
    experts, missing = [], []
    for place, model in enumerate(models):
        try:
            if compiled := whole_compile(model):
                raise StackNotFound(compiled)
            transformer = plain_module(model)
            expert = Expert(transformer, find_stack(transformer, FAMILIES, GUESSES), {})
            give_curves(expert, source, place, len(models))
            experts.append(expert)
        except StackNotFound as reason:
            missing.append(f"runs uncached: {reason}")
            log.warning("MagCache: %s", missing[-1])
    return experts, missing


def check_fits(source: Calibration | None, transformer: nn.Module, experts: int) -> None:
    """Makes sure that a curve is of the transformer's kind.

    Raises:
        ValueError: It is not.
    """
    kind, family = type(transformer).__name__, family_of(transformer, FAMILIES)
    name = family.name if family else ""
    if source and not source.fits(kind, name):
        model = f"{name} ({kind})" if source.family else kind
        fitting = [preset for preset in presets.names() if presets.load(preset).family == name]
        raise CalibrationError(
            f"{source.name} {source.origin}, but the model is {model}: calibrate this model; "
            f"its presets: {', '.join(fitting) or 'none'}"
        )
    if source and experts > 1 and all(curve.parts < experts for curve in source.curves.values()):
        raise ValueError(
            f"{source.name} is for one {kind}, but the pipeline has {experts} experts: take a "
            "preset of both, or calibrate it"
        )


def give_curves(expert: Expert, source: Calibration | None, place: int, count: int) -> None:
    """Gives an expert its own part of the curves, or all where it is the only one."""
    if source is None:
        expert.curves, expert.grams = {}, {}
        return
    expert.curves, expert.grams = source.curves, source.grams
    if count > 1:
        curves = expert.curves.items()
        ends = next(iter(expert.curves.values())).switch_at
        expert.curves = {name: c.part(place) if c.parts > 1 else c for name, c in curves}
        expert.grams = {name: gram.part(place) for name, gram in expert.grams.items()}
        expert.until = ends[place] if place < len(ends) else 0.0
