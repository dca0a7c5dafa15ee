"""The command `magcache plan`: prints a schedule without running anything."""

import argparse
import json
from typing import Any

from ..curves import Calibration, CalibrationError, Trajectory, presets
from ..decide import Course, Decider, Rule, Target, Window, decider_for, rule_of
from .calibrations import stored_or_file
from .values import MOST_STEPS, given, number, whole

_OF_THE_RULE = ("threshold", "max_skip", "retention")
_TITLES = {"max_skip": "K", "speedup": "speed-up", "error": "expected error up to", "cfg": "CFG"}


def add_to(commands: Any) -> None:
    """Adds `plan` to the commands of the command line's parser."""
    parser = commands.add_parser("plan", help="print a schedule without running anything")
    add_curve_and_rule(parser)
    text = "plan for this speed-up instead, for instance 2; needs a calibration"
    parser.add_argument("--speedup", type=number(1, 10), help=text)
    text = "skip while the expected error stays within this, for instance 0.05"
    parser.add_argument("--error", type=number(0, 1), help=text)
    text = "guidance scale to plan for; default: the calibration's"
    parser.add_argument("--cfg", type=number(0, 100), help=text)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=_plan)


def add_curve_and_rule(parser: argparse.ArgumentParser) -> None:
    """Adds the options for the curve, the run's noise levels and the rule's settings."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--preset", type=given, help="see `magcache presets`")
    source.add_argument("--calibration", type=given, help="a stored calibration, or a file")
    steps, step = whole(1, MOST_STEPS), whole(-MOST_STEPS, MOST_STEPS)
    parser.add_argument("--steps", type=steps, help="steps of the run; default: the curve's own")
    add_shift(parser, "default: the curve's own")
    own = "default: the recommended value"
    parser.add_argument("--threshold", type=number(0, 100), help=own)
    parser.add_argument("--max-skip", type=whole(0, MOST_STEPS), metavar="K", help=own)
    parser.add_argument("--retention", type=number(0, 1), help=own)
    parser.add_argument("--start-step", type=step, default=0)
    parser.add_argument("--end-step", type=step, default=-1)


def add_shift(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds the option for the shift of the noise levels."""
    text = f"flow-matching shift; {default}"
    parser.add_argument("--shift", type=number(0.01, 100), help=text)


def curve_of(arguments: argparse.Namespace) -> Calibration:
    """The curve that the options name."""
    if arguments.preset is not None:
        return presets.load(arguments.preset)
    return stored_or_file(arguments.calibration)


def chosen_rule(arguments: argparse.Namespace, source: Calibration) -> Rule:
    """The rule's settings; those not given are the recommended ones."""
    return rule_of(
        source,
        threshold=arguments.threshold,
        max_skip=arguments.max_skip,
        retention=arguments.retention,
        window=Window(arguments.start_step, arguments.end_step),
    )


def _plan(arguments: argparse.Namespace) -> None:
    source = curve_of(arguments)
    trajectory = source.trajectory(arguments.steps, arguments.shift)
    if trajectory.steps > MOST_STEPS:
        raise ValueError(
            f"{source.name} has {trajectory.steps:,} steps, too many for a plan: "
            f"give --steps, up to {MOST_STEPS:,}"
        )
    by_rule = arguments.speedup is None and arguments.error is None
    if by_rule and arguments.cfg is not None:
        raise ValueError("--cfg is for plans: give --speedup or --error with it")
    settings, decider = (_rule if by_rule else _target)(arguments, source, trajectory)
    schedule = decider.schedule()
    notes = [note for note in (source.note, *schedule.notes) if note]
    if arguments.json:
        figures = {
            "name": source.name,
            "steps": len(schedule.sigmas),
            **settings,
            "schedule": str(schedule),
            "computed": schedule.computed,
            "skipped": schedule.skipped,
            "speedup_at_most": round(schedule.speedup(), 3),
            "sigmas": [round(sigma, 6) for sigma in schedule.sigmas],
            "reasons": [reason.value for reason in schedule.reasons],
            "notes": notes,
        }
        print(json.dumps(figures, indent=1))
        return
    told = ", ".join(
        f"{_TITLES.get(name, name)} {value:g}"
        for name, value in settings.items()
        if value is not None
    )
    print(f"{source.name}, {len(schedule.sigmas)} steps: {told}")
    print(schedule)
    print(
        f"{schedule.computed} computed (#), {schedule.skipped} skipped (.): "
        f"{schedule.speedup():.2f}x where a skipped evaluation costs nothing, "
        f"{schedule.speedup(0.03):.2f}x where it costs 3 %"
    )
    for note in notes:
        print(f"note: {note}")


def _rule(
    arguments: argparse.Namespace, source: Calibration, trajectory: Trajectory
) -> tuple[dict[str, Any], Decider]:
    rule = chosen_rule(arguments, source)
    decider = decider_for(rule, Course.of_steps(trajectory), source.curves)
    return {name: getattr(rule, name) for name in _OF_THE_RULE}, decider


def _target(
    arguments: argparse.Namespace, source: Calibration, trajectory: Trajectory
) -> tuple[dict[str, Any], Decider]:
    given = [name for name in _OF_THE_RULE if getattr(arguments, name) is not None]
    if given:
        raise ValueError(f"--speedup and --error take the place of {', '.join(given)}")
    source.check_grams()
    grams = source.grams
    if any(gram.norms.parts > 1 for gram in grams.values()):
        raise CalibrationError(
            f"{source.name} has two experts, which can only be planned while they run"
        )
    cfg = source.settings.get("cfg") or 1.0 if arguments.cfg is None else arguments.cfg
    window = Window(arguments.start_step, arguments.end_step)
    target = Target(arguments.speedup, arguments.error, window=window)
    decider = decider_for(target, Course.of_steps(trajectory), source.curves, grams, cfg)
    return {"speedup": arguments.speedup, "error": arguments.error, "cfg": cfg}, decider
