"""Image differences: PSNR, SSIM and FLIP, with one definition of each for all hosts.

SSIM comes from kornia, which ships with ComfyUI and with the extra `demo`. No package common to
both provides FLIP, so it is implemented here in torch and tested against its authors' package.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SSIM_WINDOW = 11  # pixels
PIXELS_PER_DEGREE = 67  # FLIP's default: a screen 0.7 m and 3840 pixels wide, seen from 0.7 m

# FLIP's published constants: the contrast sensitivity of each opponent channel as a sum of
# Gaussians (weight, width), the compression of colour differences, the edge width in degrees.
_SENSITIVITY = (((1.0, 0.0047),), ((1.0, 0.0053),), ((34.1, 0.04), (13.5, 0.025)))
_COLOUR_EXPONENT, _KNEE, _ERROR_AT_KNEE = 0.7, 0.4, 0.95
_EDGE_WIDTH, _EDGE_EXPONENT = 0.082, 0.5
_XYZ_OF_RGB = (  # from linear sRGB, D65
    (10135552 / 24577794, 8788810 / 24577794, 4435075 / 24577794),
    (2613072 / 12288897, 8788810 / 12288897, 887015 / 12288897),
    (1425312 / 73733382, 8788810 / 73733382, 70074185 / 73733382),
)


@dataclass(frozen=True)
class Compared:
    """Differences between two batches of images, pair by pair.

    Attributes:
        squared_errors, ssims, flips: Mean squared error, SSIM and mean FLIP error of each pair.
        worst: Index of the pair with the largest mean FLIP error.
        errors: FLIP error of each pixel of that pair, (H, W).
    """

    squared_errors: list[float]
    ssims: list[float]
    flips: list[float]
    worst: int
    errors: Tensor

    @property
    def psnrs(self) -> list[float]:
        """PSNR of each pair, in dB."""
        return [psnr(error) for error in self.squared_errors]

    @property
    def equal(self) -> bool:
        return not any(self.squared_errors)


@dataclass(frozen=True)
class Difference:
    """Means over image pairs.

    Attributes:
        psnr: Peak signal-to-noise ratio in dB, higher is closer; infinite if any pair is equal.
        ssim: Structural similarity, 1 for equal images.
        flip: Mean FLIP error, from 0 for equal images to 1.
    """

    psnr: float
    ssim: float
    flip: float


def difference(reference: Any, images: Any) -> Difference:
    """Compares images (N, H, W, 3) in [0, 1], arrays or tensors, pair by pair.

    Raises:
        ValueError: The shapes differ or are not (N, H, W, 3), or a side is too short for SSIM.
    """
    if reference.shape != images.shape or reference.ndim != 4 or reference.shape[-1] != 3:
        raise ValueError(f"cannot compare images {reference.shape} with {images.shape}")
    found = compare(torch.as_tensor(reference), torch.as_tensor(images))
    return Difference(fmean(found.psnrs), fmean(found.ssims), fmean(found.flips))


def compare(
    a: Tensor,
    b: Tensor,
    device: torch.device | None = None,
    done: Callable[[], None] = lambda: None,
) -> Compared:
    """Compares two batches (N, H, W, 3) in [0, 1] of the same shape.

    Args:
        a, b: The batches.
        device: Where to compute, by default where the images are. One pair is moved at a time.
        done: Called after each pair.

    Raises:
        ValueError: A side is too short for SSIM.
    """
    squared_errors, ssims, flips = [], [], []
    worst, largest, errors = 0, -math.inf, torch.zeros(a.shape[1:3])
    for place, (first, second) in enumerate(zip(a, b, strict=True)):
        first, second = (image.to(device, torch.float32) for image in (first, second))
        error = flip(first, second)
        squared_errors.append(squared_error(first, second))
        ssims.append(ssim(first, second))
        flips.append(float(error.mean()))
        if flips[-1] > largest:
            worst, largest, errors = place, flips[-1], error.cpu()
        done()
    return Compared(squared_errors, ssims, flips, worst, errors)


def squared_error(a: Tensor, b: Tensor) -> float:
    """Mean squared error of two images."""
    return float((a - b).square().mean())


def psnr(squared_error: float) -> float:
    """-10·log10 of a mean squared error of values in [0, 1], in dB; infinite for 0."""
    return math.inf if squared_error == 0 else -10 * math.log10(squared_error)


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean structural similarity of two images (H, W, C) in [0, 1], after Wang et al. 2004.

    The window is an 11-pixel Gaussian with σ = 1.5 that stays inside the image; K1 = 0.01,
    K2 = 0.03. The mean is over pixels and channels.

    Raises:
        ValueError: A side is shorter than the window.
    """
    height, width, _ = a.shape
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs at least {SSIM_WINDOW} pixels a side, but these images are "
            f"{width}x{height}: compare larger ones"
        )
    from kornia.metrics import ssim as each_pixel

    # Contiguous, because in channels-last layout CUDA rounds the convolutions to TF32.
    first, second = (image.float().movedim(-1, 0)[None].contiguous() for image in (a, b))
    return float(each_pixel(first, second, SSIM_WINDOW, eps=0.0, padding="valid").mean())


def flip(a: Tensor, b: Tensor, pixels_per_degree: float = PIXELS_PER_DEGREE) -> Tensor:
    """FLIP error of each pixel, (H, W), between sRGB images (H, W, 3) (Andersson et al. 2020).

    0 means equal, 1 is the maximum. `pixels_per_degree` sets the viewing distance: the number of
    pixels in one degree of the visual field.
    """
    first, second = (
        _opponent(_xyz(_linear(image.float().movedim(-1, 0).clamp(0, 1)))) for image in (a, b)
    )
    seen = (_lab(_resolved(image, pixels_per_degree)) for image in (first, second))
    colour = _compressed(_distance(*seen))
    features = [_features((i[0] + 16) / 116, pixels_per_degree) for i in (first, second)]
    feature = (features[0] - features[1]).abs().amax(0) / math.sqrt(2)
    return colour ** (1 - feature**_EDGE_EXPONENT)


def _linear(srgb: Tensor) -> Tensor:
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _xyz(rgb: Tensor) -> Tensor:
    """Linear RGB (3, ...) to XYZ, relative to white."""
    return _times(_relative_to_white(), rgb)


def _opponent(xyz: Tensor) -> Tensor:
    """XYZ to YCxCz: lightness, red-green and blue-yellow, all linear in XYZ."""
    x, y, z = xyz
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def _resolved(opponent: Tensor, pixels_per_degree: float) -> Tensor:
    """Blurs YCxCz to what the eye resolves at a distance; returns XYZ within the sRGB gamut."""
    widest = max(width for gaussians in _SENSITIVITY for _, width in gaussians)
    radius = math.ceil(3 * _sigma(widest) * pixels_per_degree)
    channels = []
    for channel, gaussians in zip(opponent, _SENSITIVITY, strict=True):
        padded, volume, total = _padded(channel, radius), 0.0, torch.zeros_like(channel)
        for weight, width in gaussians:
            height = weight * math.sqrt(math.pi / width)
            bell = _bell(radius, _sigma(width) * pixels_per_degree)
            volume += height * sum(bell) ** 2
            total += height * _filtered(padded, bell, bell)
        channels.append(total / volume)
    y, x, z = channels
    y = (y + 16) / 116
    rgb = _times(_relative_to_white().inverse(), torch.stack([y + x / 500, y, y - z / 200]))
    return _xyz(rgb.clamp(0, 1))


def _lab(xyz: Tensor) -> Tensor:
    """XYZ to L*a*b* (3, ...) with the Hunt adjustment: dark colours are less saturated."""
    knee = 6 / 29
    roots = torch.where(
        xyz > knee**3, xyz.clamp_min(knee**3) ** (1 / 3), xyz / (3 * knee**2) + 4 / 29
    )
    x, y, z = roots
    lightness = 116 * y - 16
    return torch.stack([lightness, 5 * lightness * (x - y), 2 * lightness * (y - z)])


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """HyAB distance between L*a*b* colours, raised to FLIP's exponent."""
    apart = a - b
    return (apart[0].abs() + apart[1:].square().sum(0).sqrt()) ** _COLOUR_EXPONENT


def _compressed(distance: Tensor) -> Tensor:
    """Maps distances to errors in [0, 1]; those below the knee take most of the range."""
    largest = _largest_distance()
    knee = _KNEE * largest
    above = _ERROR_AT_KNEE + (distance - knee) / (largest - knee) * (1 - _ERROR_AT_KNEE)
    return torch.where(distance < knee, distance / knee * _ERROR_AT_KNEE, above)


@cache
def _largest_distance() -> float:
    """The distance between green and blue."""
    green, blue = torch.eye(3, dtype=torch.float64)[1:]
    return float(_distance(_lab(_xyz(green)), _lab(_xyz(blue))))


def _features(lightness: Tensor, pixels_per_degree: float) -> Tensor:
    """Strength of edges and of points in a lightness image (H, W), shape (2, H, W)."""
    sigma = 0.5 * _EDGE_WIDTH * pixels_per_degree
    radius = math.ceil(3 * sigma)
    bell = _bell(radius, sigma)
    window = [weight / sum(bell) for weight in bell]
    places = range(-radius, radius + 1)
    padded = _padded(lightness, radius)
    strengths = []
    for shape in (lambda at: -at, lambda at: at**2 / sigma**2 - 1):
        kernel = _balanced([shape(at) * weight for at, weight in zip(places, window, strict=True)])
        across, down = _filtered(padded, kernel, window), _filtered(padded, window, kernel)
        strengths.append((across.square() + down.square()).sqrt())
    return torch.stack(strengths)


def _balanced(kernel: Sequence[float]) -> list[float]:
    """Scales a kernel so that its positive weights sum to 1 and its negative ones to -1."""
    positive = sum(weight for weight in kernel if weight > 0)
    negative = -sum(weight for weight in kernel if weight < 0)
    return [weight / (positive if weight > 0 else negative) for weight in kernel]


def _sigma(width: float) -> float:
    """Standard deviation of exp(-π²·z²/width), in degrees."""
    return math.sqrt(width / (2 * math.pi**2))


def _bell(radius: int, sigma: float) -> list[float]:
    return [math.exp(-(at**2) / (2 * sigma**2)) for at in range(-radius, radius + 1)]


def _relative_to_white() -> Tensor:
    matrix = torch.tensor(_XYZ_OF_RGB, dtype=torch.float64)
    return matrix / matrix.sum(1, keepdim=True)


def _times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Matrix (3, 3) times vectors (3, ...), written out: a matmul may be rounded to TF32."""
    x, y, z = vectors
    return torch.stack([a * x + b * y + c * z for a, b, c in matrix.tolist()])


def _padded(image: Tensor, radius: int) -> Tensor:
    """Pads an image (H, W) by repeating its border."""
    return F.pad(image[None, None], (radius,) * 4, mode="replicate")[0, 0]


def _filtered(image: Tensor, across: Sequence[float], down: Sequence[float]) -> Tensor:
    """A separable filter on (..., H, W) without padding; a convolution may be rounded to TF32."""
    for kernel, axis in ((across, -1), (down, -2)):
        length = image.shape[axis] - len(kernel) + 1
        total = torch.zeros_like(image.narrow(axis, 0, length))
        for place, weight in enumerate(kernel):
            total.add_(image.narrow(axis, place, length), alpha=weight)
        image = total
    return image
