"""Loads the models, places them in memory, and samples from them."""

import gc
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from . import tiny
from .files import fitted, video_size
from .settings import CLIP_CFG, CLIP_SHIFT, EMOJI, WINDOW, Kind, Problem, Settings

if TYPE_CHECKING:
    from ..emoji.video import EmojiVideoModel

log = logging.getLogger("magcache")
PIPELINE = "HunyuanVideoFramepackPipeline"
TRANSFORMERS = ("HunyuanVideoFramepackTransformer3DModel", "HunyuanVideoTransformer3DModelPacked")
REST = "hunyuanvideo-community/HunyuanVideo"  # text encoders, VAE and scheduler
VISION = "lllyasviel/flux_redux_bfl"  # image encoder
_COUNTED = 4 * WINDOW - 3  # frames of a section as the pipeline counts them
Tell = Callable[[str], None]


class Model(Protocol):
    """A loaded model.

    Attributes:
        pipe: Its pipeline, for `magcache.apply`.
        placed: How it is placed in memory, for the report.
    """

    pipe: Any
    placed: str

    def ready(self, settings: Settings, image: Image.Image | None) -> tuple[Any, str]:
        """Its checked input, and a note to the user; only FramePack has an image."""
        ...

    def sample(self, given: Any, settings: Settings, callback: Any) -> np.ndarray:
        """Frames (F, H, W, 3) of uint8, from the input that `ready` returned."""
        ...

    def frames(self, latents: Any, count: int) -> list[Image.Image]:
        """A few frames of a section."""
        ...


@dataclass
class FramePack:
    """A `HunyuanVideoFramepackPipeline`; its videos have about `resolution`² pixels."""

    pipe: Any
    placed: str
    resolution: int

    def ready(self, settings: Settings, image: Image.Image | None) -> tuple[Any, str]:
        """The image at the size of the video."""
        assert image is not None
        return fitted(image, video_size(*image.size, self.resolution)), ""

    def sample(self, given: Any, settings: Settings, callback: Any) -> np.ndarray:
        import torch

        (frames,) = self.pipe(
            image=given,
            prompt=settings.prompt,
            negative_prompt=settings.negative_prompt if settings.cfg > 1 else None,
            width=given.width,
            height=given.height,
            num_frames=settings.sections * _COUNTED,
            latent_window_size=WINDOW,
            num_inference_steps=settings.steps,
            true_cfg_scale=settings.cfg,
            guidance_scale=settings.guidance,
            generator=torch.Generator("cpu").manual_seed(settings.seed),
            sampling_type=settings.kind.sampling,
            output_type="pil",
            callback_on_step_end=callback,
        ).frames
        return np.stack([np.asarray(frame) for frame in frames])

    def frames(self, latents: Any, count: int) -> list[Image.Image]:
        """Frames of a section, each decoded separately."""
        pipe = self.pipe
        chosen = latents[0, :, _spread(latents.shape[2], count)].transpose(0, 1)[:, :, None]
        scaled = chosen.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor
        frames = pipe.vae.decode(scaled, return_dict=False)[0][:, :, 0]
        return pipe.video_processor.postprocess(frames, output_type="pil")


@dataclass
class Emoji:
    """The small trained model, which turns a few words into a clip."""

    model: "EmojiVideoModel"
    placed: str

    @property
    def pipe(self) -> Any:
        return self.model.pipe

    def ready(self, settings: Settings, image: Image.Image | None) -> tuple[Any, str]:
        """The words that it knows, and a note about those it does not."""
        try:
            prompt, note = self.model.words.understood(settings.prompt)
        except ValueError as error:
            raise Problem(f"{_capital(str(error))}.") from error
        if not prompt:
            raise Problem("Say what to draw, for instance green heart.")
        return prompt, _capital(note)

    def sample(self, given: Any, settings: Settings, callback: Any) -> np.ndarray:
        asked = self.model.arguments([given], [settings.seed], settings.steps, CLIP_CFG)
        return self._pixels(self.pipe(**asked, callback_on_step_end=callback)[0])

    def frames(self, latents: Any, count: int) -> list[Image.Image]:
        pixels = self._pixels(latents)
        return [Image.fromarray(pixels[place]) for place in _spread(len(pixels), count)]

    def _pixels(self, latents: Any) -> np.ndarray:
        (clip,) = self.model.decode(latents)
        return (clip.permute(1, 2, 3, 0) * 255).round().byte().cpu().numpy()


class Models:
    """Keeps the last used model in memory.

    Args:
        tiny_only: For tests: uses a tiny random FramePack instead of the two downloads.
        resolution: See `FramePack`; None means 640, or the size of the tiny one.
    """

    def __init__(self, tiny_only: bool = False, resolution: int | None = None) -> None:
        self.tiny_only = tiny_only
        self.resolution = resolution or (tiny.SIZE if tiny_only else 640)
        self._key: tuple[Any, ...] = ()
        self._model: Model | None = None

    def get(self, settings: Settings, tell: Tell) -> Model:
        """The model for these settings, loaded if it is not the one in memory.

        Args:
            tell: Called with the current task.

        Raises:
            Problem: It cannot be loaded; the message says why.
        """
        key = settings.kind, settings.folder, settings.preserved
        if self._model is None or key != self._key:
            self.forget()
            tell(f"Loading {settings.folder or settings.model}")
            self._model, self._key = self._load(settings), key
        return self._model

    def forget(self) -> None:
        """Frees the model."""
        import torch

        self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load(self, settings: Settings) -> Model:
        if settings.kind.small:
            return load_emoji()
        if settings.folder:
            pipe = load_folder(settings.folder)
        else:
            pipe = tiny.build() if self.tiny_only else load_published(settings.kind)
        pipe.set_progress_bar_config(disable=True)
        return FramePack(pipe, place(pipe, settings.preserved), self.resolution)


def load_emoji() -> Emoji:
    """Loads the small trained model onto the CPU, where it is as fast as on a GPU.

    Raises:
        Problem: Its files are missing; the message says where to get them.
    """
    from ..emoji import video

    try:
        return Emoji(video.load(shift=CLIP_SHIFT), "on the CPU")
    except FileNotFoundError as error:
        raise Problem(f"{_capital(str(error))}.") from error


def load_published(kind: Kind) -> Any:
    """Loads a model from the Hugging Face Hub or its local cache.

    Raises:
        Problem: There is no GPU for it, or it cannot be loaded.
    """
    import torch

    if not torch.cuda.is_available():
        raise Problem(
            f"{kind.name} needs a CUDA GPU, and PyTorch sees none here. "
            f"{EMOJI} runs on any computer."
        )
    try:
        return _assemble(kind.weights)
    except Exception as error:
        log.exception("MagCache: %s cannot be loaded", kind.weights)
        raise Problem(f"{kind.weights} cannot be loaded: {_first_line(error)}") from error


def load_folder(name: str | Path) -> Any:
    """Loads a pipeline that was saved with `save_pretrained`, or only a transformer.

    Raises:
        Problem: The folder holds neither. The message is always the same, so that visitors of the
            page cannot find out which folders exist; the console says why.
    """
    try:
        folder = Path(name).expanduser()
        return (_whole if class_in(folder) == PIPELINE else _assemble)(str(folder))
    except Exception as error:
        log.warning("MagCache: no model from the folder %s: %s", name, _first_line(error))
        raise Problem(
            f"{name} holds no FramePack model that can be loaded: give a folder with a "
            "model_index.json (a pipeline saved by diffusers) or a config.json (its transformer). "
            "The app's console says more."
        ) from error


def class_in(folder: Path) -> str:
    """The class of the model in a folder: FramePack's pipeline or one of its transformers.

    Raises:
        ValueError: The folder holds neither.
    """
    for name in ("model_index.json", "config.json"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            held = json.loads(file.read_text(encoding="utf-8"))["_class_name"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged: {error!r}") from error
        if held in (PIPELINE, *TRANSFORMERS):
            return str(held)
        raise ValueError(f"it holds {held}, not a FramePack model")
    there = "it has neither a model_index.json nor a config.json"
    raise ValueError(there if folder.is_dir() else "there is no such folder")


def _assemble(weights: str) -> Any:
    """Loads a transformer, and the parts that FramePack shares with HunyuanVideo and FLUX Redux."""
    import diffusers
    import torch
    import transformers

    half: dict[str, Any] = {"torch_dtype": torch.float16}
    return diffusers.HunyuanVideoFramepackPipeline.from_pretrained(
        REST,
        transformer=diffusers.HunyuanVideoFramepackTransformer3DModel.from_pretrained(
            weights, torch_dtype=torch.bfloat16, use_safetensors=True
        ),
        feature_extractor=transformers.SiglipImageProcessor.from_pretrained(
            VISION, subfolder="feature_extractor"
        ),
        image_encoder=transformers.SiglipVisionModel.from_pretrained(
            VISION, subfolder="image_encoder", **half
        ),
        **half,
    )


def _whole(folder: str) -> Any:
    """Loads a saved pipeline; on a GPU, in the data types of the published FramePack."""
    import diffusers
    import torch

    dtype: Any = {"transformer": torch.bfloat16, "default": torch.float16}
    return diffusers.HunyuanVideoFramepackPipeline.from_pretrained(
        folder,
        use_safetensors=True,
        torch_dtype=dtype if torch.cuda.is_available() else torch.float32,
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def place(pipe: Any, preserved: float, device: Any = None) -> str:
    """Places a pipeline so that `preserved` GB stay free; returns how, for the report."""
    import torch

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    pipe.vae.enable_tiling()
    if device.type != "cuda":
        pipe.to(device)
        return f"on the {device.type.upper()}"
    sizes = [_size(part) for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    free = torch.cuda.mem_get_info(device)[0] - preserved * 1e9
    how = placement(free, sizes)
    if how == "whole":
        pipe.to(device)
        return "on the GPU"
    if how == "parts":
        pipe.enable_model_cpu_offload(device=device)
        return "a part at a time on the GPU"
    offload_layers(pipe, device)
    return "a layer at a time on the GPU"


def placement(free: float, sizes: list[int]) -> str:
    """What fits into `free` bytes: all parts ("whole"), one at a time ("parts"), or "layers"."""
    if free >= sum(sizes):
        return "whole"
    return "parts" if free >= max(sizes) else "layers"


def offload_layers(pipe: Any, device: Any) -> None:
    """Streams the large parts layer by layer; the small ones stay on the device."""
    from diffusers.hooks import apply_group_offloading

    for name in ("text_encoder", "text_encoder_2", "transformer"):
        apply_group_offloading(
            getattr(pipe, name),
            device,
            offload_type="leaf_level",
            use_stream=device.type == "cuda",
            low_cpu_mem_usage=device.type == "cuda",
        )
    pipe.image_encoder.to(device)
    pipe.vae.to(device)


def _size(module: Any) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _spread(length: int, count: int) -> list[int]:
    """Evenly spaced indices, from the first to the last."""
    return [round(i * (length - 1) / (count - 1)) for i in range(count)]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
