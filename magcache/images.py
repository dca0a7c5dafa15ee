"""How far images are from each other: PSNR, SSIM and FLIP, one definition each for all hosts.

SSIM is kornia's, which ComfyUI brings along and the extra `demo` installs. No package that both
have measures FLIP, so it is here, in plain torch; the tests hold it to its authors' package.
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

# FLIP's published constants: each opponent channel's contrast sensitivity as a sum of Gaussians
# (weight, width), the compression of colour differences, and the width of an edge in degrees.
_SENSITIVITY = (((1.0, 0.0047),), ((1.0, 0.0053),), ((34.1, 0.04), (13.5, 0.025)))
_COLOUR_EXPONENT, _KNEE, _ERROR_AT_KNEE = 0.7, 0.4, 0.95
_EDGE_WIDTH, _EDGE_EXPONENT = 0.082, 0.5
_XYZ_OF_RGB = (  # of linear sRGB, D65
    (10135552 / 24577794, 8788810 / 24577794, 4435075 / 24577794),
    (2613072 / 12288897, 8788810 / 12288897, 887015 / 12288897),
    (1425312 / 73733382, 8788810 / 73733382, 70074185 / 73733382),
)


@dataclass(frozen=True)
class Compared:
    """How far two batches of images are from each other, image by image.

    Attributes:
        squared_errors, ssims, flips: Of each pair; the last is the mean of its FLIP errors.
        worst: The pair with the largest of these.
        errors: FLIP error of each of its pixels, (H, W).
    """

    squared_errors: list[float]
    ssims: list[float]
    flips: list[float]
    worst: int
    errors: Tensor

    @property
    def psnrs(self) -> list[float]:
        """Of each pair, in dB."""
        return [psnr(error) for error in self.squared_errors]

    @property
    def equal(self) -> bool:
        return not any(self.squared_errors)


@dataclass(frozen=True)
class Difference:
    """Means over image pairs.

    Attributes:
        psnr: Peak signal-to-noise ratio in dB, more is nearer; infinite where one pair is equal.
        ssim: Structural similarity, 1 where equal.
        flip: Mean FLIP error, 0 where equal, 1 at most.
    """

    psnr: float
    ssim: float
    flip: float


def difference(reference: Any, images: Any) -> Difference:
    """Compares images (N, H, W, 3) in [0, 1], arrays or tensors, pair by pair.

    Raises:
        ValueError: The two differ in shape, or a side is too short for SSIM.
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
    """Compares two batches (N, H, W, 3) in [0, 1] of one shape.

    Args:
        a, b: The batches.
        device: Where to compute, None where they are; it holds one pair at a time.
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

    The window is a Gaussian of σ 1.5, cut off at 11 pixels, wherever it lies in the image; K1 is
    0.01, K2 0.03; the mean is over channels too.

    Raises:
        ValueError: A side is shorter than the window.
    """
    height, width, _ = a.shape
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs {SSIM_WINDOW} pixels a side, and these images are {width}x{height}: "
            "compare larger ones"
        )
    from kornia.metrics import ssim as each_pixel

    # Contiguous: laid out by channel, CUDA would round the convolutions to TF32.
    first, second = (image.float().movedim(-1, 0)[None].contiguous() for image in (a, b))
    return float(each_pixel(first, second, SSIM_WINDOW, eps=0.0, padding="valid").mean())


def flip(a: Tensor, b: Tensor, pixels_per_degree: float = PIXELS_PER_DEGREE) -> Tensor:
    """FLIP error of each pixel (H, W) of sRGB images (H, W, 3) (Andersson et al. 2020).

    From 0 where they are equal to 1, as seen at a distance that makes a degree so many pixels.
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
    """Linear RGB (3, ...) to XYZ, relative to white's."""
    return _times(_relative_to_white(), rgb)


def _opponent(xyz: Tensor) -> Tensor:
    """XYZ to lightness, red to green and blue to yellow: YCxCz, linear in XYZ."""
    x, y, z = xyz
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def _resolved(opponent: Tensor, pixels_per_degree: float) -> Tensor:
    """What the eye resolves of YCxCz at a distance, as XYZ of colours that a screen can show."""
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
    """XYZ to L*a*b*, colours fading with darkness as Hunt found (3, ...)."""
    knee = 6 / 29
    roots = torch.where(
        xyz > knee**3, xyz.clamp_min(knee**3) ** (1 / 3), xyz / (3 * knee**2) + 4 / 29
    )
    x, y, z = roots
    lightness = 116 * y - 16
    return torch.stack([lightness, 5 * lightness * (x - y), 2 * lightness * (y - z)])


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """HyAB distance of L*a*b* colours, with FLIP's exponent."""
    apart = a - b
    return (apart[0].abs() + apart[1:].square().sum(0).sqrt()) ** _COLOUR_EXPONENT


def _compressed(distance: Tensor) -> Tensor:
    """Distances to errors from 0 to 1, nearly all of that for the smaller ones."""
    largest = _largest_distance()
    knee = _KNEE * largest
    above = _ERROR_AT_KNEE + (distance - knee) / (largest - knee) * (1 - _ERROR_AT_KNEE)
    return torch.where(distance < knee, distance / knee * _ERROR_AT_KNEE, above)


@cache
def _largest_distance() -> float:
    """That of green and blue."""
    green, blue = torch.eye(3, dtype=torch.float64)[1:]
    return float(_distance(_lab(_xyz(green)), _lab(_xyz(blue))))


def _features(lightness: Tensor, pixels_per_degree: float) -> Tensor:
    """Strength of edges and of points in (H, W), shape (2, H, W)."""
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
    """Positive weights that sum to 1, negative ones to -1."""
    positive = sum(weight for weight in kernel if weight > 0)
    negative = -sum(weight for weight in kernel if weight < 0)
    return [weight / (positive if weight > 0 else negative) for weight in kernel]


def _sigma(width: float) -> float:
    """Of exp(-π²·z²/width), in degrees."""
    return math.sqrt(width / (2 * math.pi**2))


def _bell(radius: int, sigma: float) -> list[float]:
    return [math.exp(-(at**2) / (2 * sigma**2)) for at in range(-radius, radius + 1)]


def _relative_to_white() -> Tensor:
    matrix = torch.tensor(_XYZ_OF_RGB, dtype=torch.float64)
    return matrix / matrix.sum(1, keepdim=True)


def _times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Sums of products by hand: a matrix product may be rounded to TF32."""
    x, y, z = vectors
    return torch.stack([a * x + b * y + c * z for a, b, c in matrix.tolist()])


def _padded(image: Tensor, radius: int) -> Tensor:
    """(H, W) with its border repeated."""
    return F.pad(image[None, None], (radius,) * 4, mode="replicate")[0, 0]


def _filtered(image: Tensor, across: Sequence[float], down: Sequence[float]) -> Tensor:
    """A separable filter where it lies in (..., H, W); a convolution may be rounded to TF32."""
    for kernel, axis in ((across, -1), (down, -2)):
        length = image.shape[axis] - len(kernel) + 1
        total = torch.zeros_like(image.narrow(axis, 0, length))
        for place, weight in enumerate(kernel):
            total.add_(image.narrow(axis, place, length), alpha=weight)
        image = total
    return image
