"""Diffusers pipelines for the commands that sample: options, loading and calling."""

import argparse
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .plan import add_shift
from .values import a_path, check_file, given, number, whole

PROMPTS = (
    "a lighthouse on a cliff at sunset, waves below",
    "portrait of an old fisherman, soft window light",
    "a busy street market after rain, neon signs",
)
BUNDLED = ("emoji", "emoji-turbo", "emoji-unet")
_CFG = {"emoji": 3.0, "emoji-turbo": 1.0, "emoji-unet": 5.0}
_NOT_OF_EMOJI = ("image", "height", "width", "frames", "dtype", "offload")
_DTYPES = ("bfloat16", "float16", "float32")
OnStep = Callable[[int], None]


@dataclass(frozen=True)
class Pipeline:
    """A loaded pipeline.

    Attributes:
        pipe: The pipeline.
        call: Calls it with a prompt, a seed, a number of steps, and further arguments.
        images: Turns the result into a tensor of images or frames (N, H, W, 3) in [0, 1].
        cfg: Scale of classifier-free guidance, None if it is not known.
    """

    pipe: Any
    call: Callable[..., Any]
    images: Callable[[Any], Any]
    cfg: float | None

    def generate(self, prompt: str, seed: int, steps: int, on_step: OnStep | None = None) -> Any:
        """Samples; calls `on_step` with the number of finished steps, if the pipeline allows."""
        more: dict[str, Any] = {}
        if on_step and "callback_on_step_end" in inspect.signature(self.pipe.__call__).parameters:

            def after(_pipe: Any, step: int, _t: Any, kept: dict[str, Any]) -> dict[str, Any]:
                on_step(step + 1)
                return kept

            more["callback_on_step_end"] = after
        return self.call(prompt, seed, steps, **more)


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """Adds the options for what to generate, and where."""
    text = "classifier-free guidance; default: the pipeline's"
    parser.add_argument("--cfg", type=number(0, 100), help=text)
    add_shift(parser, "default: the model's")
    parser.add_argument("--seed", type=whole(0, 2**63 - 1), default=0)
    parser.add_argument("--image", type=a_path, help="for pipelines that start from an image")
    for side in ("height", "width", "frames"):
        parser.add_argument(f"--{side}", type=whole(1, 16_384))
    parser.add_argument("--dtype", choices=_DTYPES, help="of the weights; default bfloat16")
    parser.add_argument("--device", type=given, help="default: a GPU where there is one")
    parser.add_argument("--offload", action="store_true", help="offload unused parts")


def check(arguments: argparse.Namespace, far: bool = False) -> None:
    """Checks the options before a model is loaded: each must be used, and name what exists.

    Args:
        arguments: The options of `add_pipeline`, and `model`.
        far: Whether the device is on another machine.
    """
    import torch

    model = Path(arguments.model)
    if arguments.model in BUNDLED:
        left_out = [*_NOT_OF_EMOJI, *(["shift"] if arguments.model == "emoji-unet" else [])]
        unused = [name for name in left_out if getattr(arguments, name) not in (None, False)]
        if unused:
            raise ValueError(f"the bundled emoji model takes no --{', --'.join(unused)}")
    elif model.exists() and not (model / "model_index.json").is_file():
        raise ValueError(f"{model} is not a saved pipeline: it has no model_index.json")
    if arguments.image is not None:
        check_file(arguments.image)
    try:
        if arguments.device is not None and not far:
            torch.empty(1, device=arguments.device).cpu()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"the device {arguments.device} cannot be used here: {why}") from error


def prompts_of(model: str, split: str, count: int) -> list[str]:
    """The default prompts of a command."""
    if model not in BUNDLED:
        return list(PROMPTS[:count])
    from ..emoji import keywords

    return keywords.read(keywords.find_folder(model)).prompts(split)[:count]


def prepared(arguments: argparse.Namespace) -> Pipeline:
    """Loads a model."""
    return _emoji(arguments) if arguments.model in BUNDLED else _loaded(arguments)


def _bundled(model: str, **settings: Any) -> Any:
    from ..emoji import image, turbo, unet

    return {"emoji": image, "emoji-turbo": turbo, "emoji-unet": unet}[model].load(**settings)


def _emoji(arguments: argparse.Namespace) -> Pipeline:
    """Loads a bundled model, whose prompts are keywords."""
    settings = {"device": arguments.device or "cpu"}
    if arguments.shift is not None:
        settings["shift"] = arguments.shift
    model = _bundled(arguments.model, **settings)
    cfg = _CFG[arguments.model] if arguments.cfg is None else arguments.cfg

    def call(prompt: str, seed: int, steps: int, **more: Any) -> Any:
        return model.pipe(**model.arguments([prompt], [seed], steps, cfg), **more)

    def images(found: Any) -> Any:
        return model.decode(found[0]).movedim(1, -1)

    return Pipeline(model.pipe, call, images, cfg)


def _loaded(arguments: argparse.Namespace) -> Pipeline:
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
    guidance = "true_cfg_scale" if "true_cfg_scale" in known else "guidance_scale"
    given = _given(arguments, guidance)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"{type(pipe).__name__} takes no {', '.join(unknown)}")
    if "negative_prompt" in known and (arguments.cfg or 1) > 1:
        given["negative_prompt"] = ""
    if "output_type" in known:
        given["output_type"] = "np"

    def call(prompt: str, seed: int, steps: int, **more: Any) -> Any:
        generator = torch.Generator("cpu").manual_seed(seed)
        return pipe(prompt=prompt, num_inference_steps=steps, generator=generator, **given, **more)

    usual = known[guidance].default if guidance in known else None
    return Pipeline(pipe, call, _images, arguments.cfg if arguments.cfg is not None else usual)


def _images(found: Any) -> Any:
    """The images or frames in a pipeline's result, whatever its form."""
    import numpy as np
    import torch

    array = np.asarray(found[0], dtype=object if _pictures(found[0]) else None)
    if array.dtype == object:
        array = np.stack([np.asarray(each.convert("RGB")) / 255 for each in array.flatten()])
    if array.ndim < 3 or array.shape[-1] not in (1, 3, 4):
        raise ValueError("there is nothing to compare, because this pipeline returns no pictures")
    images = torch.as_tensor(array.astype(np.float32))
    images = images.reshape(-1, *images.shape[-3:])[..., :3].clamp(0, 1)
    return images.expand(*images.shape[:3], 3)


def _pictures(found: Any) -> bool:
    """Whether a value holds Pillow images, possibly in nested lists."""
    while isinstance(found, list) and found:
        found = found[0]
    return hasattr(found, "convert")


def _pretrained(model: str, dtype: Any) -> Any:
    """Loads a pipeline with diffusers; any problem with the files becomes a readable error."""
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
    """The pipeline arguments that the user gave."""
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
