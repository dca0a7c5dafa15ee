"""Loading FramePack, and placing it where the memory allows."""

import gc
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import tiny
from .settings import Kind, Problem, Settings

log = logging.getLogger("magcache")
PIPELINE = "HunyuanVideoFramepackPipeline"
TRANSFORMERS = ("HunyuanVideoFramepackTransformer3DModel", "HunyuanVideoTransformer3DModelPacked")
REST = "hunyuanvideo-community/HunyuanVideo"  # text encoders, VAE and scheduler
VISION = "lllyasviel/flux_redux_bfl"  # image encoder
Tell = Callable[[str], None]


@dataclass
class Model:
    """A loaded pipeline.

    Attributes:
        pipe: A `HunyuanVideoFramepackPipeline`.
        resolution: Its videos have about the square of this in pixels.
        placed: How it lies in memory, for the report.
    """

    pipe: Any
    resolution: int
    placed: str


class Models:
    """Keeps the model that was used last.

    Args:
        tiny_only: Use the tiny random model in place of the two that would be downloaded.
        resolution: See `Model`; None takes 640, or the tiny model's.
    """

    def __init__(self, tiny_only: bool = False, resolution: int | None = None) -> None:
        self.tiny_only = tiny_only
        self.resolution = resolution or (tiny.SIZE if tiny_only else 640)
        self._key: tuple[Any, ...] = ()
        self._model: Model | None = None

    def get(self, settings: Settings, tell: Tell) -> Model:
        """The model for these settings, loaded if it is not the one kept.

        Args:
            tell: Is told what is under way.

        Raises:
            Problem: It cannot be loaded; the message says why.
        """
        key = settings.kind, settings.folder, settings.preserved
        if self._model is None or key != self._key:
            self.forget()
            tell(f"Loading {settings.folder or settings.model}")
            pipe = self._load(settings)
            pipe.set_progress_bar_config(disable=True)
            placed = place(pipe, settings.preserved)
            self._model, self._key = Model(pipe, self.resolution, placed), key
        return self._model

    def forget(self) -> None:
        """Frees the model."""
        import torch

        self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load(self, settings: Settings) -> Any:
        if settings.folder:
            return load_folder(settings.folder)
        return tiny.build() if self.tiny_only else load_published(settings.kind)


def load_published(kind: Kind) -> Any:
    """Downloads a model from the Hugging Face Hub, or takes it from its cache.

    Raises:
        Problem: There is no GPU for it, or it cannot be had.
    """
    import torch

    if not torch.cuda.is_available():
        raise Problem(
            f"{kind.name} needs a CUDA GPU, and PyTorch sees none here. "
            "The tiny model (magcache app --tiny) runs on a CPU."
        )
    try:
        return _assemble(kind.weights)
    except Exception as error:
        log.exception("MagCache: %s cannot be loaded", kind.weights)
        raise Problem(f"{kind.weights} cannot be loaded: {_first_line(error)}") from error


def load_folder(name: str | Path) -> Any:
    """Loads a pipeline that was saved with `save_pretrained`, or a transformer alone.

    Raises:
        Problem: The folder holds neither. Whoever has the page open must not learn which folders
            there are, so it is told alike of all; the console says why.
    """
    try:
        folder = Path(name).expanduser()
        return (_whole if class_in(folder) == PIPELINE else _assemble)(str(folder))
    except Exception as error:
        log.warning("MagCache: no model from the folder %s: %s", name, _first_line(error))
        raise Problem(
            f"{name} holds no FramePack model that can be loaded: give a folder with a "
            "model_index.json (a pipeline saved by diffusers) or a config.json (its transformer). "
            "The console of the app says more."
        ) from error


def class_in(folder: Path) -> str:
    """The class that a folder holds: FramePack's pipeline or one of its transformers.

    Raises:
        ValueError: It holds neither.
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
    """A transformer with the parts that FramePack shares with HunyuanVideo and FLUX Redux."""
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
    """A saved pipeline; on a GPU in the data types in which FramePack is published."""
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
    """Puts a pipeline where it fits, leaving `preserved` GB free; returns how, for the report."""
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
    """What fits into so many bytes: all parts ("whole"), each by itself ("parts"), or "layers"."""
    if free >= sum(sizes):
        return "whole"
    return "parts" if free >= max(sizes) else "layers"


def offload_layers(pipe: Any, device: Any) -> None:
    """Streams the large parts in layer by layer; the small ones stay on the device."""
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
