"""Curves for other programs: lists of magnitude ratios for one schedule, in each one's format.

These programs look a ratio up by the step's number, and each knows its own models. The lists
made here are composed for one number of steps and one shift, so that nothing is left for them
to interpolate.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .curves import Calibration, Trajectory, presets
from .decide import Course, Reason, Rule, Schedule, decider_for

COMPUTE = 0.0
"""A ratio that no threshold below 1 lets pass: the step is computed, and all starts anew."""
WRAPPER_ENTRIES = 100
"""Length of the list that WanVideoWrapper looks up by step: half of it over its constant 50."""

_DIGITS = 6
_NO_RATIO = (Reason.WINDOW, Reason.REFRESH, Reason.NO_RATIO)  # beyond threshold, K and retention


@dataclass(frozen=True)
class Part:
    """The steps of one expert, or of the whole run.

    Attributes:
        ratios: Ratio of each step to the one before, a branch.
        protected: How many of the steps are always computed at the beginning.
    """

    ratios: Mapping[str, tuple[float, ...]]
    protected: int

    @property
    def steps(self) -> int:
        return len(self.cond)

    @property
    def cond(self) -> tuple[float, ...]:
        """The list for programs that have one for all branches."""
        return self.ratios.get("cond") or next(iter(self.ratios.values()))


@dataclass(frozen=True)
class Composed:
    """A curve at the noise levels of one run.

    Attributes:
        rule: Settings.
        schedule: What comes of them, all branches together.
        whole: All steps.
        parts: The same by expert; one where there is one.
        shift: The run's flow-matching shift, None where it is unknown.
    """

    rule: Rule
    schedule: Schedule
    whole: Part
    parts: tuple[Part, ...]
    shift: float | None


@dataclass(frozen=True)
class Engine:
    """A program that has MagCache.

    Attributes:
        title: Its name.
        families: The model families its MagCache knows.
        place: Where the export goes.
        settings: Makes the export.
        unknown: Calibrations of these families that it does not know all the same.
    """

    title: str
    families: tuple[str, ...]
    place: str
    settings: Callable[[Composed], dict[str, Any]]
    unknown: tuple[str, ...] = ()

    def fits(self, source: Calibration, families: Iterable[str] = ()) -> bool:
        """Whether it knows the model of a curve; a measured one is of the families named."""
        made_for = (source.family,) if source.family else families
        return source.name not in self.unknown and not {*made_for}.isdisjoint(self.families)


def compose(
    source: Calibration, rule: Rule, trajectory: Trajectory, shift: float | None = None
) -> Composed:
    """The ratios of a run, at its own noise levels.

    Args:
        source: The curve.
        rule: Settings.
        trajectory: The run's noise levels.
        shift: The shift they were made with; None takes that of the curve's measurement.

    Raises:
        ValueError: Nothing would be skipped, or the settings cannot be told to other programs.
    """
    if rule.threshold >= 1:
        raise ValueError(f"a threshold of {rule.threshold:g} cannot be exported: 1 lets all pass")
    schedule = decider_for(rule, Course.of_steps(trajectory), source.curves).schedule()
    if not schedule.skipped:
        raise ValueError("these settings skip nothing: leave the other program's cache off")
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
    """The settings of one program, in JSON's types.

    Args:
        engine: A key of `ENGINES`.
        source: The curve.
        composed: The same at the noise levels of the run.
        families: Names of the families that the model of a calibration is of.

    Raises:
        ValueError: The program does not know the model; the message says which it knows.
    """
    program = ENGINES[engine]
    if not program.fits(source, families):
        known = [n for n in presets.names() if program.fits(presets.load(n))]
        model = source.family or source.model
        raise ValueError(
            f"{program.title} has no MagCache for {source.name} ({model}): it knows "
            f"{', '.join(program.families)} (presets {', '.join(known)})"
        )
    return program.settings(composed)


def _split(whole: Part, second: int) -> tuple[Part, ...]:
    """The two experts' steps, of which there may be none of one."""
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
                f"WanVideoWrapper looks up {WRAPPER_ENTRIES} steps at most, not {part.steps}"
            )
        return {
            "cache_args": {
                "cache_type": "MagCache",
                "magcache_thresh": composed.rule.threshold,
                "magcache_K": composed.rule.max_skip,
                # The first step in its window is always computed: the last protected one.
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
    """One expert's settings as they are, two under their names."""
    if len(parts) == 1:
        return settings(parts[0])
    return {n: settings(part) for n, part in zip(names, parts, strict=True) if part.steps}


def _rounded_retention(part: Part) -> float:
    """A ratio that times the steps, rounded, is the protected steps; it may not be 0."""
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
"""By the name that `magcache export --to` takes."""
