"""WanVideoWrapper: its own MagCache, with ratios that fit each step's noise level.

For each prediction, the wrapper keeps a product of ratios in its state. It looks the ratios up by
step number in a list made for a fixed number of steps, however many the run has. A hook on the
transformer's forward corrects each product before the wrapper uses it. Nothing in the model
changes, so nothing has to be restored: the products live in the run's state, which the wrapper
clears itself. The hook acts only in runs with this node's settings, and disappears with them.
"""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ....blocks import plain_module
from ....curves import Calibration, CalibrationError, MagnitudeCurve
from ....curves.presets import load
from ....export import COMPUTE, ENGINES
from ... import families_of
from .. import calibrations
from ..models import MODEL_TYPES
from . import widgets
from .widgets import Calibrated

_ENGINE = ENGINES["wanvideowrapper"]
_TYPES = [name for name, row in MODEL_TYPES.items() if _ENGINE.fits(load(row.preset))]
_TIMESTEPS = 1000
_NEEDED = ("magcache_state", "enable_magcache", "cache_device")


class CacheArgs(dict[str, Any]):
    """WanVideoWrapper's `CACHEARGS`: a dictionary that allows weak references."""


class MagCacheWanVideoWrapper(Calibrated):
    """Settings for WanVideoWrapper's sampler, and a curve for its model."""

    CATEGORY = "MagCache"
    FUNCTION = "apply"
    RETURN_TYPES = ("CACHEARGS",)
    RETURN_NAMES = ("cache_args",)
    OUTPUT_TOOLTIPS = ("Connect it to the input cache_args of WanVideoWrapper's sampler.",)
    DESCRIPTION = (
        "WanVideoWrapper's own MagCache. If you connect the model, its ratios fit the run's "
        "steps, scheduler and shift."
    )
    WORDS = (widgets.PUBLISHED,)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model_type": widgets.entry(
                    _TYPES,
                    "Which model's published list to use. Only used if model is connected.",
                    default="wan2.1_t2v_14B",
                ),
                "magcache_thresh": widgets.threshold(0.12, 0.3, 0.001),
                "magcache_K": widgets.most_skipped(4, 6),
                "start_step": widgets.number(
                    (6, 0, 9999, 1),
                    "First step in which skipping is allowed, for instance a fifth of the steps. "
                    "The sampler always computes this step itself.",
                ),
                "end_step": widgets.last_step(-1, 9999),
                "cache_device": widgets.entry(
                    ["main_device", "offload_device"], widgets.RESIDUALS, default="offload_device"
                ),
            },
            "optional": {
                "model": widgets.entry(
                    "WANVIDEOMODEL",
                    "The model that is sampled. Without it, WanVideoWrapper uses its own ratios, "
                    "which are for 50 steps.",
                ),
                "calibration": cls.calibration_input(
                    "The published list, or a file from MagCache Calibration."
                ),
            },
        }

    def apply(
        self,
        model_type: str,
        magcache_thresh: float,
        magcache_K: int,
        start_step: int,
        end_step: int,
        cache_device: str,
        model: Any = None,
        calibration: str = widgets.PUBLISHED,
    ) -> tuple[CacheArgs]:
        from comfy import model_management

        offloaded = cache_device == "offload_device"
        name = "unet_offload_device" if offloaded else "get_torch_device"
        cache_args = CacheArgs(
            cache_type="MagCache",
            magcache_thresh=magcache_thresh,
            magcache_K=magcache_K,
            start_step=start_step,
            end_step=end_step,
            cache_device=torch.device(str(getattr(model_management, name)())),
        )
        if model is not None:
            curves = _source(model_type, calibration).curves
            curve = curves.get("cond") or next(iter(curves.values()))
            hook = _Ratios(cache_args["cache_device"], curve)
            handle = _transformer(model).register_forward_pre_hook(hook, with_kwargs=True)
            weakref.finalize(cache_args, handle.remove).atexit = False
        return (cache_args,)


class _Product(float):
    """A complete product of ratios: multiplying it by another ratio changes nothing."""

    def __mul__(self, _ratio: float) -> float:
        return float(self)


@dataclass
class _Ratios:
    """Follows the noise levels of a run, and completes the products of its ratios.

    Attributes:
        device: Identifies the run: only there is this object the transformer's cache device.
        curve: The magnitude curve of the conditional branch, which decides for all branches.
        before, now: Noise levels of the last and the current evaluation.
        step: Number of the current step.
    """

    device: torch.device
    curve: MagnitudeCurve
    before: float | None = None
    now: float = 0.0
    step: int = 0

    def __call__(
        self, transformer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        if not (transformer.enable_magcache and transformer.cache_device is self.device):
            return
        timestep = kwargs["t"] if "t" in kwargs else args[1]
        self._follow(float(timestep.max()) / _TIMESTEPS, int(kwargs.get("current_step", 0)))
        state: Any = transformer.magcache_state
        entry = state.get(kwargs.get("pred_id"))
        if entry:
            ratio = None if self.before is None else self.curve.ratio(self.before, self.now)
            complete = COMPUTE if ratio is None else entry["accumulated_ratio"] * ratio
            entry["accumulated_ratio"] = _Product(complete)

    def _follow(self, sigma: float, step: int) -> None:
        if step < self.step or sigma > self.now:
            self.before, self.now = None, sigma  # another run
        elif sigma < self.now:
            self.before, self.now = self.now, sigma
        self.step = step


def _source(model_type: str, calibration: str) -> Calibration:
    if calibration == widgets.PUBLISHED:
        return load(MODEL_TYPES[model_type].preset)
    measured = Calibration.load(calibrations.find(calibration))
    if not _ENGINE.fits(measured, families_of(measured.model)):
        raise CalibrationError(
            f"{calibration} {measured.origin}, which WanVideoWrapper does not sample: choose one "
            "of a Wan model"
        )
    return measured


def _transformer(model: Any) -> nn.Module:
    """The transformer of a WANVIDEOMODEL.

    Raises:
        TypeError: The input is no such model, or this WanVideoWrapper works differently.
    """
    network = getattr(getattr(model, "model", None), "diffusion_model", None)
    network = plain_module(network) if isinstance(network, nn.Module) else None
    missing = [name for name in _NEEDED if not hasattr(network, name)]
    if network is None or missing:
        raise TypeError(
            f"the input `model` must be a WANVIDEOMODEL of a WanVideoWrapper that has MagCache: "
            f"{type(network or model).__name__} has no {', '.join(missing)}"
        )
    return network
