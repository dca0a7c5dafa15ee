"""Exports curves to other programs as lists of magnitude ratios, in each program's format.

These programs look up a ratio by step index, and each supports its own set of models. A list is
composed for one number of steps and one shift, so the program has nothing to interpolate.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .curves import Calibration, Trajectory, presets
from .decide import Course, Reason, Rule, Schedule, decider_for

COMPUTE = 0.0
"""A ratio that fails every threshold below 1: the step is computed and the drift restarts."""
WRAPPER_ENTRIES = 100
"""Length of WanVideoWrapper's list: it reads entry step·(length/2)/50, so this makes it `step`."""

_DIGITS = 6
# Reasons that other programs cannot derive from threshold, K and retention.
_NO_RATIO = (Reason.WINDOW, Reason.REFRESH, Reason.NO_RATIO)


@dataclass(frozen=True)
class Part:
    """The steps of one expert, or of the whole run.

    Attributes:
        ratios: For each branch, the ratio of each step to the one before.
        protected: Number of steps at the beginning that are always computed.
    """

    ratios: Mapping[str, tuple[float, ...]]
    protected: int

    @property
    def steps(self) -> int:
        return len(self.cond)

    @property
    def cond(self) -> tuple[float, ...]:
        """The list for programs that use one for all branches."""
        return self.ratios.get("cond") or next(iter(self.ratios.values()))


@dataclass(frozen=True)
class Composed:
    """A curve at the noise levels of one run.

    Attributes:
        rule: The settings.
        schedule: The schedule they give, for all branches together.
        whole: All steps.
        parts: The steps of each expert; one entry if there is only one.
        shift: The run's flow-matching shift, None if unknown.
    """

    rule: Rule
    schedule: Schedule
    whole: Part
    parts: tuple[Part, ...]
    shift: float | None


@dataclass(frozen=True)
class Engine:
    """A program with its own MagCache.

    Attributes:
        title: Its name.
        families: The model families that it supports.
        place: Where the export goes.
        settings: Builds the export.
        unknown: Presets of these families that it does not support.
    """

    title: str
    families: tuple[str, ...]
    place: str
    settings: Callable[[Composed], dict[str, Any]]
    unknown: tuple[str, ...] = ()

    def fits(self, source: Calibration, families: Iterable[str] = ()) -> bool:
        """Whether it supports a curve's model; for a calibration, `families` names its families."""
        made_for = (source.family,) if source.family else families
        return source.name not in self.unknown and not {*made_for}.isdisjoint(self.families)


def compose(
    source: Calibration, rule: Rule, trajectory: Trajectory, shift: float | None = None
) -> Composed:
    """The ratios of a run at its own noise levels.

    Args:
        source: The curve.
        rule: The settings.
        trajectory: The run's noise levels.
        shift: The shift they were made with; by default the one the curve was measured with.

    Raises:
        ValueError: Nothing would be skipped, or other programs cannot express the settings.
    """
    if rule.threshold >= 1:
        raise ValueError(
            f"a threshold of {rule.threshold:g} cannot be exported, because nothing fails it: "
            "choose one below 1"
        )
    schedule = decider_for(rule, Course.of_steps(trajectory), source.curves).schedule()
    if not schedule.skipped:
        raise ValueError("these settings skip nothing: turn off the other program's cache")
    positions = {
        branch: [curve.place(sigma, trajectory) for sigma in trajectory.sigmas]
        for branch, curve in source.curves.items()
    }
    ratios = {
        branch: tuple(
            COMPUTE if ratio is None or reason in _NO_RATIO else round(ratio, _DIGITS)
            for ratio, reason in zip(curve.ratios(positions[branch]), schedule.reasons, strict=True)
        )
        for branch, curve in source.curves.items()
    }
    whole = Part(ratios, int(trajectory.steps * rule.retention))
    branch, curve = next(iter(source.curves.items()))
    second = sum(curve.part_at(position) == 0 for position in positions[branch])
    parts = _split(whole, second) if curve.parts > 1 else (whole,)
    return Composed(rule, schedule, whole, parts, _shift(source) if shift is None else shift)


def export(
    engine: str, source: Calibration, composed: Composed, families: Iterable[str] = ()
) -> dict[str, Any]:
    """The settings for one program, as JSON types.

    Args:
        engine: A key of `ENGINES`.
        source: The curve.
        composed: The curve at the noise levels of the run.
        families: Families of the model, for a calibration.

    Raises:
        ValueError: The program does not support the model; the message lists what it supports.
    """
    program = ENGINES[engine]
    if not program.fits(source, families):
        known = [n for n in presets.names() if program.fits(presets.load(n))]
        model = source.family or source.model
        raise ValueError(
            f"{program.title} has no MagCache for {source.name} ({model}): it supports "
            f"{', '.join(program.families)} (presets {', '.join(known)})"
        )
    return program.settings(composed)


def _split(whole: Part, second: int) -> tuple[Part, ...]:
    """The steps of each of two experts; one may have none."""
    halves = (slice(None, second), slice(second, None))
    shares = (min(whole.protected, second), max(whole.protected - second, 0))
    parts = [
        Part({branch: ratios[half] for branch, ratios in whole.ratios.items()}, protected)
        for half, protected in zip(halves, shares, strict=True)
    ]
    return tuple(parts)


def _shift(source: Calibration) -> float | None:
    shift = source.settings.get("shift")
    return float(shift) if isinstance(shift, int | float) else None


def _lightx2v(composed: Composed) -> dict[str, Any]:
    ratios = composed.whole.ratios
    shift = {} if composed.shift is None else {"sample_shift": composed.shift}
    return {
        "infer_steps": composed.whole.steps,
        **shift,
        "feature_caching": "Mag",
        "magcache_calibration": False,
        "magcache_thresh": composed.rule.threshold,
        "magcache_K": composed.rule.max_skip,
        "magcache_retention_ratio": composed.rule.retention,
        "magcache_ratios": [
            list(composed.whole.cond),
            list(ratios.get("uncond", composed.whole.cond)),
        ],
    }


def _vllm_omni(composed: Composed) -> dict[str, Any]:
    return {
        "mag_threshold": composed.rule.threshold,
        "mag_max_skip_steps": composed.rule.max_skip,
        "mag_retention_ratio": _rounded_retention(composed.whole),
        "mag_ratios": list(composed.whole.cond),
        "num_inference_steps": composed.whole.steps,
    }


def _diffusers(composed: Composed) -> dict[str, Any]:
    def settings(part: Part) -> dict[str, Any]:
        return {
            "threshold": composed.rule.threshold,
            "max_skip_steps": composed.rule.max_skip,
            "retention_ratio": _rounded_retention(part),
            "num_inference_steps": part.steps,
            "mag_ratios": list(part.cond),
        }

    return _by_expert(composed.parts, ("transformer", "transformer_2"), settings)


def _wanvideowrapper(composed: Composed) -> dict[str, Any]:
    def settings(part: Part) -> dict[str, Any]:
        if part.steps > WRAPPER_ENTRIES:
            raise ValueError(
                f"WanVideoWrapper supports at most {WRAPPER_ENTRIES} steps, not {part.steps}"
            )
        return {
            "cache_args": {
                "cache_type": "MagCache",
                "magcache_thresh": composed.rule.threshold,
                "magcache_K": composed.rule.max_skip,
                # It always computes the first step of its window, so that is the last protected
                # one.
                "start_step": max(part.protected - 1, 0),
                "end_step": -1,
                "cache_device": "offload_device",
            },
            "magcache_ratios": [*part.cond, *[COMPUTE] * (WRAPPER_ENTRIES - part.steps)],
        }

    return _by_expert(composed.parts, ("high", "low"), settings)


def _by_expert(
    parts: Sequence[Part], names: tuple[str, str], settings: Callable[[Part], dict[str, Any]]
) -> dict[str, Any]:
    """The settings of one expert, or those of two under their names."""
    if len(parts) == 1:
        return settings(parts[0])
    return {n: settings(part) for n, part in zip(names, parts, strict=True) if part.steps}


def _rounded_retention(part: Part) -> float:
    """The ratio that gives the protected steps when multiplied by the steps; never 0."""
    return max(part.protected, 0.25) / part.steps


ENGINES = {
    "lightx2v": Engine(
        "LightX2V",
        ("wan", "hunyuan_video_1.5"),
        "merge it into the file that --config_json names",
        _lightx2v,
    ),
    "vllm-omni": Engine(
        "vLLM-Omni",
        ("flux", "flux2"),
        "vllm serve MODEL --omni --cache-backend mag_cache --cache-config \"$(cat FILE)\"",
        _vllm_omni,
        unknown=("flux_kontext", "flux_kontext_28steps"),
    ),
    "diffusers": Engine(
        "diffusers",
        ("flux", "hunyuan_video", "qwen_image", "wan", "wan_vace"),
        "pipe.transformer.enable_cache(MagCacheConfig(**json.load(file)))",
        _diffusers,
    ),
    "wanvideowrapper": Engine(
        "WanVideoWrapper",
        ("wan", "wan_vace"),
        "cache_args for its sampler, numpy.array(magcache_ratios) for the transformer; in "
        "ComfyUI the node MagCache for WanVideoWrapper does both",
        _wanvideowrapper,
    ),
}  # fmt: skip
"""The programs, by the name that `magcache export --to` takes."""
