"""Two images, or two videos, compared frame by frame."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch

from ...pictures import SSIM_WINDOW, psnr, similarity


@dataclass(frozen=True)
class Compared:
    """How far two batches of images are from each other.

    Attributes:
        size: Width and height.
        squared_errors, ssims, flips: Of each frame; the last is the mean of its FLIP errors.
        worst: The frame with the largest of these.
        errors: FLIP error of each of its pixels, (H, W).
    """

    size: tuple[int, int]
    squared_errors: list[float]
    ssims: list[float]
    flips: list[float]
    worst: int
    errors: torch.Tensor

    @property
    def psnrs(self) -> list[float]:
        """Of each frame, in dB."""
        return [psnr(error) for error in self.squared_errors]

    @property
    def equal(self) -> bool:
        return not any(self.squared_errors)

    @property
    def figures(self) -> str:
        """All frames together; the PSNR is that of their mean squared error."""
        ratio = psnr(fmean(self.squared_errors))
        return _line(ratio, fmean(self.ssims), fmean(self.flips))

    def __str__(self) -> str:
        frames, (width, height) = len(self.flips), self.size
        what = f"{frames} frames" if frames > 1 else "one image"
        lines = [self.figures, f"{what} of {width}x{height}"]
        if self.equal:
            lines.append("A and B are equal")
        elif frames > 1:
            worst = self.worst
            figures = _line(self.psnrs[worst], self.ssims[worst], self.flips[worst])
            lines.append(f"frame {worst + 1} differs most, by FLIP: {figures}")
        lines.append("The nearer the two, the higher PSNR, the closer SSIM to 1 and FLIP to 0.")
        return "\n".join(lines)


def compare(
    a: torch.Tensor, b: torch.Tensor, device: torch.device, done: Callable[[], None]
) -> Compared:
    """Compares two batches (N, H, W, C) in [0, 1]; colours only, where there are more channels.

    Args:
        a, b: The batches.
        device: Where to compute; it holds one frame at a time.
        done: Called after each frame.

    Raises:
        ValueError: Sizes or numbers of frames differ, or a side is too short; says what to do.
    """
    _check(a, b)
    squared_errors, ssims, flips = [], [], []
    worst, largest, errors = 0, -math.inf, torch.zeros(a.shape[1:3])
    for frame, pair in enumerate(zip(a, b, strict=True)):
        found = similarity(*(_rgb(image.to(device)) for image in pair))
        mean = float(found.flip.mean())
        squared_errors.append(found.squared_error)
        ssims.append(found.ssim)
        flips.append(mean)
        if mean > largest:
            worst, largest, errors = frame, mean, found.flip.cpu()
        done()
    return Compared((a.shape[2], a.shape[1]), squared_errors, ssims, flips, worst, errors)


def _rgb(image: torch.Tensor) -> torch.Tensor:
    return image[..., :3].expand(*image.shape[:2], 3)


def _check(a: torch.Tensor, b: torch.Tensor) -> None:
    shapes = " and ".join(
        f"{name} holds {image.shape[0]} of {image.shape[2]}x{image.shape[1]}"
        for name, image in (("image_a", a), ("image_b", b))
    )
    if a.shape[1:3] != b.shape[1:3]:
        raise ValueError(
            f"{shapes} pixels: sample both at one size, or bring one to the other's with Upscale "
            "Image"
        )
    if len(a) != len(b):
        raise ValueError(
            f"{shapes} pixels: give both as many frames, cutting the longer with ImageFromBatch"
        )
    if min(a.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(f"{shapes} pixels: SSIM needs {SSIM_WINDOW} a side")


def _line(ratio: float, ssim: float, flip: float) -> str:
    decibel = "infinite" if math.isinf(ratio) else f"{ratio:.2f} dB"
    return f"PSNR {decibel}, SSIM {ssim:.4f}, FLIP {flip:.4f}"
