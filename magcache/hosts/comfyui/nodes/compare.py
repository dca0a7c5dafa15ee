"""MagCache Compare: measures how much two images, or two videos, differ."""

import math
from statistics import fmean
from typing import Any

from ....images import Compared, compare, psnr
from ....pictures import as_batch, draw_comparison
from .. import host
from .widgets import HIDDEN, entry


class MagCacheCompare:
    """PSNR, SSIM and FLIP of two batches of images, as text and as a picture."""

    CATEGORY = "MagCache"
    FUNCTION = "compare"
    OUTPUT_NODE = True
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("picture", "text")
    OUTPUT_TOOLTIPS = (
        "A, B and where they differ. For a video: the frame that differs most, and curves.",
        "PSNR, SSIM and FLIP. For a video, also the frame that differs most.",
    )
    DESCRIPTION = (
        "Measures how much two images or videos differ, for instance one made with MagCache and "
        "one without, from the same seed. Both must have the same size."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image_a": entry(
                    "IMAGE", "A: an image or the frames of a video, for instance the original."
                ),
                "image_b": entry("IMAGE", "B: as many of the same size. A and B can be swapped."),
            },
            "hidden": HIDDEN,
        }

    def compare(self, image_a: Any, image_b: Any, node_id: str | None = None) -> dict[str, Any]:
        from comfy import model_management
        from comfy.utils import ProgressBar

        progress = ProgressBar(len(image_a))

        def done() -> None:
            model_management.throw_exception_if_processing_interrupted()
            progress.update(1)

        _check(image_a, image_b)
        a, b = _colours(image_a), _colours(image_b)
        found = compare(a, b, model_management.get_torch_device(), done)
        picture = as_batch(draw_comparison(a[found.worst], b[found.worst], found, _figures(found)))
        text = _told(found, a)
        host.show(text, node_id)
        return {"ui": {**host.preview(picture), "text": [text]}, "result": (picture, text)}


def _check(a: Any, b: Any) -> None:
    shapes = " and ".join(
        f"{name} holds {image.shape[0]} of {image.shape[2]}x{image.shape[1]}"
        for name, image in (("image_a", a), ("image_b", b))
    )
    if a.shape[1:3] != b.shape[1:3]:
        raise ValueError(
            f"{shapes} pixels: sample both at the same size, or resize one with Upscale Image"
        )
    if len(a) != len(b):
        raise ValueError(
            f"{shapes} pixels: give both the same number of frames; ImageFromBatch cuts the longer"
        )


def _colours(images: Any) -> Any:
    """RGB: transparency is dropped, grey becomes three equal channels."""
    return images[..., :3].expand(*images.shape[:-1], 3)


def _figures(found: Compared) -> str:
    """The figures of all frames together; PSNR is that of their mean squared error."""
    return _line(fmean(found.squared_errors), fmean(found.ssims), fmean(found.flips))


def _told(found: Compared, frames: Any) -> str:
    count, height, width, _ = frames.shape
    what = f"{count} frames" if count > 1 else "one image"
    lines = [_figures(found), f"{what} of {width}x{height}"]
    if found.equal:
        lines.append("A and B are equal")
    elif count > 1:
        worst = found.worst
        figures = _line(found.squared_errors[worst], found.ssims[worst], found.flips[worst])
        lines.append(f"frame {worst + 1} differs most, by FLIP: {figures}")
    lines.append("The closer the two, the higher is PSNR; SSIM approaches 1, and FLIP 0.")
    return "\n".join(lines)


def _line(squared_error: float, ssim: float, flip: float) -> str:
    ratio = psnr(squared_error)
    decibel = "infinite" if math.isinf(ratio) else f"{ratio:.2f} dB"
    return f"PSNR {decibel}, SSIM {ssim:.4f}, FLIP {flip:.4f}"
