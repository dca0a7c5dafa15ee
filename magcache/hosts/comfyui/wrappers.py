"""The ComfyUI wrappers that accelerate a sampling.

OUTER_SAMPLE creates and frees the state of a sampling, PREDICT_NOISE is called once per evaluation,
and APPLY_MODEL once per model call. The state lives in the options of that one sampling. The model
carries only the settings and the three functions below, which hold no state.
"""

import logging
from dataclasses import replace
from functools import partial
from typing import Any

from . import host, trajectory
from .benchmark import Given
from .sampling import BlockSampling, OutputSampling, Sampling
from .settings import SETTINGS, Settings, settings_on
from .start import Start
from .watch import Watch

log = logging.getLogger("magcache")
STATE = "magcache_sampling"
_ARGUMENTS = (
    "noise", "latent_image", "sampler", "sigmas", "denoise_mask", "callback", "disable_pbar",
    "seed",
)  # fmt: skip


def install(model: Any, settings: Settings, watch: Watch | None = None) -> Any:
    """A clone of a ModelPatcher with MagCache on it, which replaces an earlier MagCache."""
    earlier = settings_on(model)
    if watch and earlier:
        watch.replaces = earlier.watch
    settings = replace(settings, watch=watch)
    wrappers = {
        "outer_sample": _outer_sample,
        "predict_noise": _predict_noise,
        "apply_model": _apply_model,
    }
    model = model.clone()
    for kind, wrapper in wrappers.items():
        model.remove_wrappers_with_key(kind, SETTINGS)
        model.add_wrapper_with_key(kind, SETTINGS, wrapper)
    options = model.model_options.setdefault("transformer_options", {})
    model.model_options["transformer_options"] = {**options, SETTINGS: settings}
    return model


def _outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]  # a guider may have its own
    settings = options.get(SETTINGS) or settings_on(guider.model_patcher)
    if settings is None:
        return executor(*args, **kwargs)
    if settings.instead:
        return settings.instead(_given(executor, args, kwargs))
    return _sample(settings, executor, *args, **kwargs)


def _given(executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    """A sampling that can be repeated, each time from the original conditions."""
    guider = executor.class_obj
    things = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
    conds = guider.conds

    def sample(settings: Settings | None, **changed: Any) -> Any:
        guider.conds = {name: [dict(cond) for cond in held] for name, held in conds.items()}
        now = {**things, **changed}
        positional = [now.pop(name) for name in _ARGUMENTS if name in now]
        if settings is None:
            return executor(*positional, **now)
        return _sample(settings, executor, *positional, **now)

    return Given(guider, sample, things)


def _sample(settings: Settings, executor: Any, *args: Any, **kwargs: Any) -> Any:
    """One accelerated sampling."""
    guider = executor.class_obj
    kept = guider.model_options
    options = kept["transformer_options"]
    patcher = guider.model_patcher
    noise, _, sampler, sigmas, *more = args
    shape, mask = tuple(noise.shape), more[0] if more else kwargs.get("denoise_mask")
    made_with = host.described(guider, sampler, sigmas, shape)
    if settings.choose:
        split = trajectory.is_split(
            patcher.get_model_object("model_sampling"), made_with["sigmas"], noise
        )
        start = Start(guider.conds, shape, mask, split, made_with)
        settings = replace(settings.choose(patcher, start), watch=settings.watch)
    kind = OutputSampling if settings.at_output else BlockSampling
    sampling = kind(settings, patcher, sigmas, made_with, host.is_plain_euler(sampler))
    other = options.get(host.OTHER_CACHE)
    if other is not None:
        name = getattr(other, "name", type(other).__name__)
        sampling.step_aside(f"{name} is on the same model and does the work; remove one of them")
    try:
        state = {**options, "wrappers": _innermost(options.get("wrappers", {})), STATE: sampling}
        guider.model_options = {**kept, "transformer_options": state, **sampling.options(kept)}
        output = executor(*args, **kwargs)
        _finish(sampling)
        return output
    except BaseException:
        sampling.progress.stopped()
        raise
    finally:
        guider.model_options = kept
        sampling.close()


def _innermost(wrappers: dict[str, Any]) -> dict[str, Any]:
    """The wrappers with MagCache's own last, inside those that exchange blocks to compile them."""
    calls = dict(wrappers.get("apply_model", {}))
    if SETTINGS not in calls:
        return wrappers
    calls[SETTINGS] = calls.pop(SETTINGS)
    return {**wrappers, "apply_model": calls}


def _finish(sampling: Sampling) -> None:
    """Logs one line about a finished sampling; warnings were logged when they came up."""
    sampling.learn()
    report, settings = sampling.report(), sampling.settings
    if settings.watch:
        settings.watch.keep(report)
    if settings.finished:
        settings.finished(sampling)
    elif not sampling.missing:
        log.info("%s", report.line())
    for note in sampling.notes():
        sampling.tell_more(note)


def _predict_noise(executor: Any, x: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
    model_options = args[0] if args else kwargs.get("model_options", {})
    sampling = model_options.get("transformer_options", {}).get(STATE)
    if sampling is None:
        return executor(x, timestep, *args, **kwargs)
    sampling.begin(x, float(timestep.flatten()[0]), executor.class_obj.conds)
    denoised = executor(x, timestep, *args, **kwargs)
    sampling.end(denoised)
    return denoised


def _apply_model(executor: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    # args after x: t, c_concat, c_crossattn, control, transformer_options
    options = args[4] if len(args) > 4 else kwargs.get("transformer_options", {})
    sampling = options.get(STATE)
    forward = partial(executor, x, *args, **kwargs)
    if sampling is None:
        return forward()
    control = args[3] if len(args) > 3 else kwargs.get("control")
    return sampling.run_model(executor.class_obj, x, options, control is not None, forward)
