"""The command `magcache calibrate`: an ordinary generation of a diffusers pipeline, measured."""

import argparse
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..calibrate import merge, sweep
from ..curves import Calibration, Store, described
from .calibrations import add_home

_PROMPT = "a lighthouse on a cliff at sunset, waves below"
Generate = Callable[[str, int], Any]


def add_to(commands: Any) -> None:
    """Adds `calibrate` to the commands of the command line's parser."""
    parser = commands.add_parser("calibrate", help="measure a model with an ordinary generation")
    parser.add_argument(
        "model", help="a diffusers pipeline: its folder, its name on the Hub; or emoji"
    )
    text = "may be given several times: they are merged"
    parser.add_argument("--prompt", action="append", help=text)
    parser.add_argument("--steps", type=int, default=50, help="default 50: finer serves all others")
    parser.add_argument(
        "--cfg", type=float, help="classifier-free guidance; default the pipeline's"
    )
    parser.add_argument("--shift", type=float, help="flow-matching shift; default the model's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image", type=Path, help="for pipelines that start from one")
    for side in ("height", "width", "frames"):
        parser.add_argument(f"--{side}", type=int)
    parser.add_argument("--dtype", default="bfloat16", help="of the weights; default bfloat16")
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--offload", action="store_true", help="offload parts that are not in use")
    parser.add_argument("--name", help="default: made from model and settings")
    add_home(parser)
    text = "measure prompts at once on a Ray cluster: HOST:PORT, auto, or local to start one here"
    parser.add_argument("--ray", metavar="ADDRESS", help=text)
    parser.set_defaults(run=_calibrate, extra="diffusers")


def _calibrate(arguments: argparse.Namespace) -> None:
    if arguments.steps < 2:
        raise ValueError(f"two steps are the least that can be compared, got {arguments.steps}")
    store = Store(arguments.home)
    store.prepare(arguments.name)  # tells a bad name or folder before the work
    left = ("run", "ray", "home", "prompt")  # of no use to a worker
    settings = tuple((k, v) for k, v in vars(arguments).items() if k not in left)
    prompts = arguments.prompt or _default_prompts(arguments.model)
    measured: dict[int, Calibration] = {}

    def task(number: int) -> _Task:
        print(f"calibrating with {prompts[number]!r}, {arguments.steps} steps", file=sys.stderr)
        return _Task(settings, prompts[number], arguments.seed + number)

    try:
        gpus = 0 if arguments.device == "cpu" else 1
        failed = sweep(len(prompts), task, _measure, measured.__setitem__, arguments.ray, gpus)
    finally:
        _prepared.cache_clear()
    for number, error in failed.items():
        print(f"left out, {prompts[number]!r} has failed: {error}", file=sys.stderr)
    if not measured:
        raise ValueError("no prompt could be measured")
    found = [measured[number] for number in sorted(measured)]
    calibration = merge(found) if len(found) > 1 else found[0]
    path = store.save(calibration, arguments.name)
    print(f"{path.stem}: {described(calibration)}\nwrote {path}")


@dataclass(frozen=True)
class _Task:
    """One prompt; `settings` are the command's."""

    settings: tuple[tuple[str, Any], ...]
    prompt: str
    seed: int


def _measure(task: _Task) -> Iterator[Calibration]:
    """The calibration of one prompt."""
    import magcache

    pipe, generate = _prepared(task.settings)
    with magcache.apply(pipe, calibrate=True) as applied:
        generate(task.prompt, task.seed)
        yield applied.calibration()


@cache
def _prepared(settings: tuple[tuple[str, Any], ...]) -> tuple[Any, Generate]:
    """The model, loaded once in each process."""
    arguments = argparse.Namespace(**dict(settings))
    return _emoji(arguments) if arguments.model == "emoji" else _loaded(arguments)


def _default_prompts(model: str) -> list[str]:
    if model != "emoji":
        return [_PROMPT]
    from ..emoji import image as emoji

    return emoji.load().prompts("calibration")[:1]


def _emoji(arguments: argparse.Namespace) -> tuple[Any, Generate]:
    """The bundled model, whose prompts are keywords that it has learned."""
    from ..emoji import image as emoji

    shift = 1.0 if arguments.shift is None else arguments.shift
    model = emoji.load(shift=shift, device=arguments.device or "cpu")
    cfg = 3.0 if arguments.cfg is None else arguments.cfg

    def generate(prompt: str, seed: int) -> Any:
        return model.generate([prompt], [seed], arguments.steps, cfg)

    return model.pipe, generate


def _loaded(arguments: argparse.Namespace) -> tuple[Any, Generate]:
    import torch
    from diffusers import DiffusionPipeline

    dtype = getattr(torch, arguments.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{arguments.dtype!r} is no dtype: bfloat16, float16 or float32")
    pipe: Any = DiffusionPipeline.from_pretrained(arguments.model, torch_dtype=dtype)
    if arguments.shift is not None:
        pipe.scheduler = type(pipe.scheduler).from_config(
            pipe.scheduler.config, shift=arguments.shift, flow_shift=arguments.shift
        )
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipe.enable_model_cpu_offload(device=device) if arguments.offload else pipe.to(device)
    known = inspect.signature(pipe.__call__).parameters
    given = _given(arguments, "true_cfg_scale" if "true_cfg_scale" in known else "guidance_scale")
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"{type(pipe).__name__} takes no {', '.join(unknown)}")
    if "negative_prompt" in known and (arguments.cfg or 1) > 1:
        given["negative_prompt"] = ""

    def generate(prompt: str, seed: int) -> Any:
        generator = torch.Generator("cpu").manual_seed(seed)
        steps = arguments.steps
        return pipe(prompt=prompt, num_inference_steps=steps, generator=generator, **given)

    return pipe, generate


def _given(arguments: argparse.Namespace, guidance: str) -> dict[str, Any]:
    """The pipeline's arguments that were given."""
    image = None
    if arguments.image is not None:
        from PIL import Image

        image = Image.open(arguments.image).convert("RGB")
    values = {
        guidance: arguments.cfg,
        "height": arguments.height,
        "width": arguments.width,
        "num_frames": arguments.frames,
        "image": image,
    }
    return {name: value for name, value in values.items() if value is not None}
