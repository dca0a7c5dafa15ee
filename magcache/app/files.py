"""Uploaded images, written videos, and the folder that holds both until the app ends."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .settings import FPS, Problem

LARGEST_FILE = 20 * 2**20  # bytes
LARGEST_IMAGE = 50_000_000  # pixels
SMALLEST_SIDE = 32  # pixels
_LONGEST_SHAPE = 4.0  # ratio of the long to the short side
_SCALE_IT_DOWN = f"scale it down to {LARGEST_IMAGE // 10**6} megapixels or less"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder for everything that the app writes; deleted at the end with its contents."""
    with tempfile.TemporaryDirectory(prefix="magcache-app-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def read_image(path: Path) -> Image.Image:
    """Reads an uploaded image as RGB, upright, with transparency on white.

    Raises:
        Problem: It is too large or too small, damaged, or not an image.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise Problem(f"The image file is larger than {LARGEST_FILE >> 20} MB.")
        with Image.open(path, formats=_FORMATS) as image:
            _check_size(*image.size)
            image.load()
            upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise Problem(f"This file is not an image: use {', '.join(_FORMATS)}.") from None
    except Image.DecompressionBombError:
        raise Problem(f"The image has too many pixels: {_SCALE_IT_DOWN}.") from None
    except FileNotFoundError:
        raise Problem("The image has expired: choose it again.") from None
    except (OSError, SyntaxError) as error:
        raise Problem("The image is damaged: choose another one.") from error
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        ground = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(ground, upright.convert("RGBA"))
    return upright.convert("RGB")


def _check_size(width: int, height: int) -> None:
    if width * height > LARGEST_IMAGE:
        raise Problem(f"The image has {width} × {height} pixels: {_SCALE_IT_DOWN}.")
    if min(width, height) < SMALLEST_SIDE:
        raise Problem(
            f"The image has {width} × {height} pixels: each side needs {SMALLEST_SIDE} or more."
        )
    if max(width, height) > _LONGEST_SHAPE * min(width, height):
        raise Problem(
            f"The image has {width} × {height} pixels: crop it, so that the long side is at most "
            f"{_LONGEST_SHAPE:g} times the short one."
        )


def video_size(width: int, height: int, resolution: int) -> tuple[int, int]:
    """Width and height of the video for an image: about `resolution`² pixels of its shape."""
    grid = 32 if resolution >= 256 else 16
    shape = (width / height) ** 0.5
    across, down = (max(1, round(resolution * s / grid)) * grid for s in (shape, 1 / shape))
    return across, down


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at the size of the video, cropped if their shapes differ."""
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def enlarged(frames: np.ndarray, zoom: int) -> np.ndarray:
    """Frames (F, H, W, 3) with each pixel `zoom` times as large; the same array for 1."""
    return frames if zoom == 1 else frames.repeat(zoom, axis=1).repeat(zoom, axis=2)


def write_video(path: Path, frames: np.ndarray, crf: int, fps: int = FPS, zoom: int = 1) -> Path:
    """Writes an MP4 that browsers can play.

    Args:
        frames: (F, H, W, 3), uint8, with even sides.
        crf: Compression, from 1 (least) to 51.
        fps: Frames per second.
        zoom: Factor by which to enlarge each pixel.
    """
    import imageio_ffmpeg

    frames = enlarged(frames, zoom)
    height, width = frames.shape[1:3]
    coding: dict[str, Any] = {"codec": "libx264", "quality": None, "macro_block_size": 2}
    options = ["-crf", str(crf), "-movflags", "+faststart"]
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, output_params=options, **coding
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    return path
