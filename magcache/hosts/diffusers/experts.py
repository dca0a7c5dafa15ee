"""The transformers of a pipeline: which can be accelerated, and with which part of a curve."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ...blocks import ModelOutput, Place, StackNotFound, family_of, find_stack, plain_module
from ...calibrate import Calibrator, identity_of
from ...curves import (
    Calibration,
    CalibrationError,
    GramCurve,
    Identity,
    MagnitudeCurve,
    Notebook,
    presets,
)
from ...run import Run
from .models import FAMILIES, GUESSES
from .outputs import Outputs

log = logging.getLogger("magcache")
_COMPONENTS = ("transformer", "transformer_2")
_DENOISERS = (*_COMPONENTS, "unet", "unconditional_transformer", "prior")


@dataclass
class Expert:
    """One transformer of a pipeline, with the state of its current run.

    If outputs are predicted, one expert stands for all models of the pipeline.

    Attributes:
        transformer, stack: The model, and its block stack or output.
        curves, grams: The part of the curves that belongs to it.
        until: σ at which the next expert takes over; 0 for the last.
        run: The current run, or None between runs.
        calibrator: The calibrator of the latest run; None if it was not measured.
        index: Index of the current evaluation; -1 before the first.
        calls: How often the transformer has been called in it.
        active: The model of the latest evaluation.
        others: Further models whose calls belong to the same run.
        outputs: The calls of an evaluation if outputs are predicted; None for block residuals.
        controlnets: ControlNets, which the pipeline calls before the model.
        notebook: What runs have taught about it; None until one begins.
    """

    transformer: nn.Module
    stack: Place
    curves: Mapping[str, MagnitudeCurve]
    grams: Mapping[str, GramCurve] = field(default_factory=dict)
    until: float = 0.0
    run: Run | None = None
    calibrator: Calibrator | None = None
    index: int = -1
    calls: int = 0
    active: nn.Module | None = None
    others: Sequence[nn.Module] = ()
    outputs: Outputs | None = None
    controlnets: Sequence[nn.Module] = ()
    notebook: Notebook | None = None

    @property
    def models(self) -> list[nn.Module]:
        return [self.transformer, *self.others]

    def has(self, module: nn.Module) -> bool:
        """Whether calls of a module belong to this expert's runs."""
        return any(own is module for own in (*self.models, *self.controlnets))

    @cached_property
    def _place_of_timestep(self) -> int | None:
        names = list(inspect.signature(type(plain_module(self.transformer)).forward).parameters)[1:]
        return names.index("timestep") if "timestep" in names else None

    def timestep(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        """The timestep among the arguments of a call."""
        place, value = self._place_of_timestep, kwargs.get("timestep")
        if value is None and place is not None and place < len(args):
            value = args[place]
        return value if isinstance(value, torch.Tensor) else None

    def close(self) -> None:
        """Frees the residuals that the run holds."""
        if self.run:
            self.run.close()
        if self.outputs:
            self.outputs = Outputs()


def known_as(models: Sequence[nn.Module]) -> Identity:
    """The identity of models, even if accelerate has offloaded their weights to the CPU."""
    kept: dict[torch.Tensor, torch.Tensor] = {}
    for module in (module for model in models for module in model.modules()):
        weights: Any = getattr(vars(module).get("_hf_hook"), "weights_map", None)
        if isinstance(getattr(weights, "dataset", weights), dict):  # otherwise it reads from disk
            own = module.named_parameters(recurse=False)
            kept |= {p: weights[name] for name, p in own if p.device.type == "meta"}
    return identity_of(*models, kept=kept)


def other_cache(models: Sequence[nn.Module]) -> str:
    """Name of another cache on these models, or "".

    diffusers' caches keep state between calls, which none of its other hooks does. Caches of other
    packages mark the model as cached.
    """
    for module in (module for model in models for module in model.modules()):
        hooks = getattr(vars(module).get("_diffusers_hook"), "hooks", {})
        for hook in hooks.values():
            if getattr(hook, "_is_stateful", False):
                return type(hook).__name__
    marked = (type(model).__name__ for model in models if getattr(model, "_is_cached", False))
    return next((f"a cache on {name}" for name in marked), "")


def whole_compile(module: nn.Module) -> str:
    """Why a module cannot be accelerated if it is compiled as a whole, otherwise ""."""
    if plain_module(module) is module and getattr(module, "_compiled_call_impl", None) is None:
        return ""
    return (
        f"{type(plain_module(module)).__name__} is compiled as a whole, so its blocks cannot be "
        "skipped; compile only the blocks instead (transformer.compile_repeated_blocks)"
    )


def models_of(target: Any, at_output: bool = False) -> list[nn.Module]:
    """The transformers of a pipeline, or the given model itself.

    Args:
        target: A pipeline or a model.
        at_output: Whether to return models of any kind that the pipeline's loop calls, such as
            U-Nets.

    Raises:
        TypeError: There is no such model.
    """
    found = [target] if isinstance(target, nn.Module) else []
    names = _DENOISERS if at_output else _COMPONENTS
    found = found or [getattr(target, name, None) for name in names]
    models = [model for model in found if isinstance(model, nn.Module)]
    if not models:
        kinds = "transformer or U-Net" if at_output else "transformer"
        hint = "" if at_output else "; with speedup=, U-Nets are accelerated too"
        raise TypeError(
            f"{type(target).__name__} is neither a pipeline with a {kinds} nor a {kinds}{hint}"
        )
    return models


def output_expert(target: Any) -> Expert:
    """All models of a pipeline as one expert, whose output is predicted."""
    first, *others = models_of(target, at_output=True)
    expert = Expert(first, ModelOutput(), {}, others=others, outputs=Outputs())
    controlnet = getattr(target, "controlnet", None)
    if isinstance(controlnet, nn.Module) and not others:
        expert.controlnets = [controlnet]
    return expert


def find_experts(
    models: Sequence[nn.Module], source: Calibration | None
) -> tuple[list[Expert], list[str]]:
    """The transformers that can be accelerated, and why the others cannot."""
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
    """Checks that a curve is for this kind of transformer and number of experts.

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
            f"{source.name} is for one {kind}, but the pipeline has {experts} experts: use a "
            "preset for both, or calibrate the pipeline"
        )


def give_curves(expert: Expert, source: Calibration | None, place: int, count: int) -> None:
    """Gives an expert its part of the curves, or all of them if it is the only one."""
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
