"""FramePackWrapper: accelerates its transformer, section by section.

The sampler gets a stand-in for the transformer, which passes everything on. The transformer itself
is not touched, except by `BlockStack` during a call.
"""

import logging
import weakref
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ....blocks import BlockStack, Store
from ....curves import Calibration, MagnitudeCurve, Trajectory, shifted_sigmas
from ....curves.presets import load
from ....decide import Course, Rule, decider_for
from ....report import Report, report_of
from ....run import Run, Storage
from .widgets import RESIDUALS, STORES, entry, most_skipped, number, threshold

log = logging.getLogger("magcache")
_PRESETS = ("framepack", "framepack_f1")
_LISTS, _HEADS = ("transformer_blocks", "single_transformer_blocks"), ("norm_out",)
_TIMESTEPS = 1000
_BRANCHES = ("cond", "uncond")


class MagCacheFramePackWrapper:
    """Puts MagCache on a FramePackWrapper model."""

    CATEGORY = "MagCache"
    FUNCTION = "apply"
    RETURN_TYPES = ("FramePackMODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("Connect it to FramePackWrapper's sampler. The input model is unchanged.",)
    DESCRIPTION = (
        "MagCache for FramePackWrapper's samplers, in place of their TeaCache. It starts afresh "
        "with each section of the video. Leave use_teacache on: it tells MagCache the number of "
        "steps."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": entry("FramePackMODEL", "The model from FramePackWrapper's loader."),
                "model_type": entry(
                    _PRESETS, "Which published list to use: FramePack's or FramePack-F1's."
                ),
                "magcache_thresh": threshold(0.1, 1.0, 0.01),
                "retention_ratio": number(
                    (0.2, 0.0, 1.0, 0.01),
                    "Fraction of each section, from its start, in which nothing is skipped.",
                ),
                "magcache_K": most_skipped(3, 10),
                "residuals": entry([*STORES], RESIDUALS),
            },
        }

    def apply(
        self,
        model: Any,
        model_type: str,
        magcache_thresh: float,
        retention_ratio: float,
        magcache_K: int,
        residuals: str = "compute device",
    ) -> tuple[dict[str, Any]]:
        transformer = model.get("transformer") if isinstance(model, dict) else None
        if not callable(getattr(transformer, "initialize_teacache", None)):
            raise TypeError(
                "the input `model` must be a FramePackMODEL, not "
                f"{type(transformer or model).__name__}: connect FramePackWrapper's loader"
            )
        rule = Rule(magcache_thresh, magcache_K, retention_ratio)
        settings = _Settings(load(model_type), rule, STORES[residuals])
        if isinstance(transformer, Accelerated):  # a second node takes the place of the first
            transformer = transformer._transformer
        return ({**model, "transformer": Accelerated(transformer, settings)},)


@dataclass(frozen=True)
class _Settings:
    preset: Calibration
    rule: Rule
    store: Store


class Accelerated:
    """Stands in for the transformer in a sampler: passes everything on, and skips evaluations."""

    def __init__(self, transformer: Any, settings: _Settings) -> None:
        own = vars(self)  # __setattr__ sets on the transformer
        own["_transformer"] = transformer
        own["_settings"] = settings
        own["_stack"] = BlockStack(transformer, _LISTS, _HEADS)
        own["_section"] = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python looks these up before anything is set
            raise AttributeError(name)
        return getattr(vars(self)["_transformer"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._transformer, name, value)

    def initialize_teacache(
        self, enable_teacache: bool = True, num_steps: int = 25, **others: Any
    ) -> None:
        """FramePackWrapper's signal that a section begins, with its number of steps."""
        self._end()
        self._transformer.initialize_teacache(enable_teacache=False, num_steps=num_steps, **others)
        if enable_teacache:
            vars(self)["_section"] = Section(self._stack, self._settings, num_steps)
        else:
            log.warning(
                "MagCache: FramePack runs uncached: use_teacache is off, so MagCache does not "
                "know the number of steps. Turn it on; MagCache then takes TeaCache's place"
            )

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Moves the transformer, as the sampler does after its last section."""
        self._end()
        self._transformer.to(*args, **kwargs)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = partial(self._transformer, *args, **kwargs)
        if self._section is None:
            return self._stack.plain(forward)
        try:
            return self._section.call(kwargs, forward)
        except BaseException:
            self._section.close()
            vars(self)["_section"] = None
            raise

    def _end(self) -> None:
        section, vars(self)["_section"] = self._section, None
        if section:
            section.close()
            log.info("%s", section.report().line())


class Section:
    """The sampling of one section of a video.

    Its noise levels become known only as it runs. They are those of an evenly spaced flow-matching
    schedule with a shift, so the number of an evaluation gives its place in the section.

    Args:
        stack: The transformer's blocks.
        settings: Curve and rule.
        steps: Evaluations of the section.
    """

    def __init__(self, stack: BlockStack, settings: _Settings, steps: int) -> None:
        self._curves = settings.preset.curves
        self._steps = steps
        trajectory = Trajectory(tuple(1 - step / steps for step in range(steps)))
        self._decider = decider_for(settings.rule, Course.of_steps(trajectory), self._curves)
        storage = Storage(settings.store)
        self._run = Run(self._decider, stack, storage, label=settings.preset.name)
        self._step = -1
        self._calls = 0
        self._top = 1.0
        self._first: Any = None

    def report(self) -> Report:
        """What the section has done so far."""
        return report_of([self._run])

    def call(self, kwargs: dict[str, Any], forward: Any) -> Any:
        """Runs one model call. The prompt's call is the first of each evaluation."""
        prompt = kwargs["encoder_hidden_states"]
        if self._first is None:
            self._first = prompt
            self._free_with(kwargs)
        if prompt is self._first:
            self._begin(float(kwargs["timestep"].max()) / _TIMESTEPS)
        shapes = (tuple(v.shape) for v in kwargs.values() if isinstance(v, torch.Tensor))
        branch = (self._calls, *shapes)
        curve = _BRANCHES[min(self._calls, len(_BRANCHES) - 1)]
        self._calls += 1
        return self._run.call(branch, curve, prompt.device, forward)

    def close(self) -> None:
        """Frees every residual."""
        self._run.close()

    def _begin(self, sigma: float) -> None:
        self._step, self._calls = self._step + 1, 0
        left = 1 - self._step / self._steps  # of the section
        if self._step == 0:
            self._top = sigma
        elif 0 < sigma < self._top:
            shift = (1 / left - 1) / (self._top / sigma - 1)
            self._decider.curves = self._at(shift)
        self._run.begin(left, self._step, last=self._step == self._steps - 1)

    def _at(self, shift: float) -> dict[str, MagnitudeCurve]:
        """The curves over the section's steps."""
        sigmas = [self._top * sigma for sigma in shifted_sigmas(self._steps, shift)]
        places = tuple(step / self._steps for step in range(self._steps))
        return {
            branch: MagnitudeCurve(places, tuple(map(curve.log_norm, sigmas)), "fraction")
            for branch, curve in self._curves.items()
        }

    def _free_with(self, kwargs: dict[str, Any]) -> None:
        """Frees the residuals together with the sampler's tensors, even after an interruption."""
        made_for_section = kwargs.get("guidance")
        if isinstance(made_for_section, torch.Tensor):
            weakref.finalize(made_for_section, self._run.close).atexit = False
