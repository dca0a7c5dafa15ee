"""The command `magcache calibrate`: an ordinary generation of a diffusers pipeline, measured."""

import argparse
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..calibrate import merge, sweep
from ..curves import Calibration, Store, described
from .calibrations import add_home
from .plan import add_shift
from .signals import Ended
from .values import a_path, check_file, check_folder, given, number, whole

_MOST_STEPS = 5_000  # what is kept grows with their square
_NOT_OF_EMOJI = ("image", "height", "width", "frames", "dtype", "offload")
_DTYPES = ("bfloat16", "float16", "float32")
_PROMPT = "a lighthouse on a cliff at sunset, waves below"
Generate = Callable[[str, int], Any]


def add_to(commands: Any) -> None:
    """Adds `calibrate` to the commands of the command line's parser."""
    parser = commands.add_parser("calibrate", help="measure a model with an ordinary generation")
    text = "a diffusers pipeline: its folder, its name on the Hub; or emoji"
    parser.add_argument("model", type=given, help=text)
    text = "may be given several times: they are merged"
    parser.add_argument("--prompt", action="append", help=text)
    text = "default 50: finer serves all others"
    parser.add_argument("--steps", type=whole(2, _MOST_STEPS), default=50, help=text)
    text = "classifier-free guidance; default the pipeline's"
    parser.add_argument("--cfg", type=number(0, 100), help=text)
    add_shift(parser, "default the model's")
    parser.add_argument("--seed", type=whole(0, 2**63 - 1), default=0)
    parser.add_argument("--image", type=a_path, help="for pipelines that start from one")
    for side in ("height", "width", "frames"):
        parser.add_argument(f"--{side}", type=whole(1, 16_384))
    parser.add_argument("--dtype", choices=_DTYPES, help="of the weights; default bfloat16")
    parser.add_argument("--device", type=given, help="default: a GPU where there is one")
    parser.add_argument("--offload", action="store_true", help="offload parts that are not in use")
    parser.add_argument("--name", help="default: made from model and settings")
    add_home(parser)
    text = "measure prompts at once on a Ray cluster: HOST:PORT, auto, or local to start one here"
    parser.add_argument("--ray", type=given, metavar="ADDRESS", help=text)
    parser.set_defaults(run=_calibrate, extra="diffusers")


def _calibrate(arguments: argparse.Namespace) -> None:
    store = Store(arguments.home)
    check_folder(store.folder)
    store.prepare(arguments.name)
    _check(arguments)
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
        print(f"left out, {prompts[left_out]!r} has failed: {error}", file=sys.stderr)
    path = _stored(store, arguments.name, measured)
    print(f"{path.stem}: {described(Calibration.load(path))}\nwrote {path}")


def _check(arguments: argparse.Namespace) -> None:
    """Makes sure, before a model is loaded, that each option is used and names what there is."""
    import torch

    model = Path(arguments.model)
    if arguments.model == "emoji":
        unused = [name for name in _NOT_OF_EMOJI if getattr(arguments, name) not in (None, False)]
        if unused:
            raise ValueError(f"the bundled emoji model takes no --{', --'.join(unused)}")
    elif model.exists() and not (model / "model_index.json").is_file():
        raise ValueError(f"{model} is no saved pipeline: it has no model_index.json")
    if arguments.image is not None:
        check_file(arguments.image)
    try:
        if arguments.device is not None and arguments.ray is None:
            torch.empty(1, device=arguments.device).cpu()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"the device {arguments.device} cannot be used here: {why}") from error


def _stored(store: Store, name: str | None, measured: Mapping[int, Calibration]) -> Path:
    """Stores what was measured of each prompt as one calibration; its file."""
    found = [measured[number] for number in sorted(measured)]
    return store.save(merge(found) if len(found) > 1 else found[0], name)


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

    dtype = getattr(torch, arguments.dtype or _DTYPES[0])
    pipe = _pretrained(arguments.model, dtype)
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


def _pretrained(model: str, dtype: Any) -> Any:
    """A pipeline as diffusers loads it; whatever may be wrong with the files is told in words."""
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.from_pretrained(model, torch_dtype=dtype)
    except ModuleNotFoundError:
        raise
    except Exception as error:
        why = (str(error).strip().splitlines() or [""])[0]
        why = why or type(error).__name__
        raise ValueError(f"the model {model} cannot be loaded: {why}") from error


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
