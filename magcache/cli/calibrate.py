"""The command `magcache calibrate`: measures a diffusers pipeline in an ordinary generation."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..calibrate import merge, sweep
from ..curves import Calibration, Store, described
from .calibrations import add_home
from .pipelines import Pipeline, add_pipeline, check, prepared, prompts_of
from .signals import Ended
from .values import check_folder, given, whole

_MOST_STEPS = 5_000  # memory grows with the square of the steps


def add_to(commands: Any) -> None:
    """Adds `calibrate` to the commands of the command line's parser."""
    parser = commands.add_parser("calibrate", help="measure a model in an ordinary generation")
    text = "a diffusers pipeline, as a folder or a name on the Hub; or emoji"
    parser.add_argument("model", type=given, help=text)
    text = "may be repeated; the measurements are averaged"
    parser.add_argument("--prompt", action="append", help=text)
    text = "default 50; a fine curve also serves runs with fewer steps"
    parser.add_argument("--steps", type=whole(2, _MOST_STEPS), default=50, help=text)
    add_pipeline(parser)
    parser.add_argument("--name", help="default: made from model and settings")
    add_home(parser)
    text = "measure prompts in parallel on a Ray cluster: HOST:PORT, auto, or local to start one"
    parser.add_argument("--ray", type=given, metavar="ADDRESS", help=text)
    parser.set_defaults(run=_calibrate, extra="diffusers")


def _calibrate(arguments: argparse.Namespace) -> None:
    store = Store(arguments.home)
    check_folder(store.folder)
    store.prepare(arguments.name)
    check(arguments, far=arguments.ray is not None)
    left = ("run", "ray", "home", "prompt")  # not needed by workers
    settings = tuple((k, v) for k, v in vars(arguments).items() if k not in left)
    prompts = arguments.prompt or prompts_of(arguments.model, "calibration", 1)
    measured: dict[int, Calibration] = {}

    def task(number: int) -> _Task:
        print(f"calibrating with {prompts[number]!r}, {arguments.steps} steps", file=sys.stderr)
        return _Task(settings, prompts[number], arguments.seed + number)

    try:
        gpus = 0 if arguments.device == "cpu" else 1
        failed = sweep(len(prompts), task, _measure, measured.__setitem__, arguments.ray, gpus)
    except Ended as ended:
        if measured:
            path = _stored(store, arguments.name, measured)
            ended.kept = f"{len(measured)} of {len(prompts)} prompts are kept in {path}"
        raise
    finally:
        _prepared.cache_clear()
    if not measured:
        raise next(iter(failed.values()))
    for left_out, error in failed.items():
        print(f"{prompts[left_out]!r} failed and is left out: {error}", file=sys.stderr)
    path = _stored(store, arguments.name, measured)
    print(f"{path.stem}: {described(Calibration.load(path))}\nwrote {path}")


def _stored(store: Store, name: str | None, measured: Mapping[int, Calibration]) -> Path:
    """Stores the measurements of all prompts as one calibration; returns its file."""
    found = [measured[number] for number in sorted(measured)]
    return store.save(merge(found) if len(found) > 1 else found[0], name)


@dataclass(frozen=True)
class _Task:
    """One prompt, with the command's settings."""

    settings: tuple[tuple[str, Any], ...]
    prompt: str
    seed: int


def _measure(task: _Task) -> Iterator[Calibration]:
    """Measures one prompt."""
    import magcache

    settings = dict(task.settings)
    pipeline = _prepared(task.settings)
    try:
        session = magcache.apply(pipeline.pipe, calibrate=True)
    except TypeError as error:
        raise ValueError(f"this model cannot be calibrated: {error}") from error
    with session as applied:
        pipeline.generate(task.prompt, task.seed, settings["steps"])
        yield applied.calibration()


@cache
def _prepared(settings: tuple[tuple[str, Any], ...]) -> Pipeline:
    """The model, loaded once per process."""
    return prepared(argparse.Namespace(**dict(settings)))
