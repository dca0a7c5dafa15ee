"""PSNR, SSIM and FLIP of two images in plain torch, where a host brings no package for them.

`magcache.images` takes scikit-image and flip-evaluator; the tests hold these functions to them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional as F

SSIM_WINDOW = 11
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
class Similarity:
    """How two images differ.

    Attributes:
        squared_error: Mean squared error.
        ssim: Structural similarity, 1 where equal.
        flip: FLIP error of each pixel, from 0 where equal to 1, shape (H, W).
    """

    squared_error: float
    ssim: float
    flip: torch.Tensor


def psnr(squared_error: float) -> float:
    """-10·log10 of a mean squared error of values in [0, 1], in dB; infinite for 0."""
    return math.inf if squared_error == 0 else -10 * math.log10(squared_error)


def similarity(first: torch.Tensor, second: torch.Tensor) -> Similarity:
    """Compares two sRGB images (H, W, 3) in [0, 1], at least 11 pixels high and wide."""
    a, b = (image.float().movedim(-1, 0) for image in (first, second))
    return Similarity(float((a - b).square().mean()), float(ssim(a, b)), flip(a, b))


def ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean structural similarity of images (C, H, W) in [0, 1], a scalar (Wang et al. 2004).

    The window is a Gaussian of 11 pixels and σ 1.5 that lies in the image; K₁ 0.01, K₂ 0.03.
    """
    window = _gaussian(SSIM_WINDOW // 2, 1.5)

    def mean(values: torch.Tensor) -> torch.Tensor:
        return _filtered(values, window, window)

    # About the middle grey: of large means with small variances float32 would leave little.
    middle = [image - 0.5 for image in (a, b)]
    mean_a, mean_b = map(mean, middle)
    variances = mean(middle[0].square() + middle[1].square()) - mean_a.square() - mean_b.square()
    covariance = mean(middle[0] * middle[1]) - mean_a * mean_b
    mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a.square() + mean_b.square() + 0.01**2)
    return (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean()


def flip(
    a: torch.Tensor, b: torch.Tensor, pixels_per_degree: float = PIXELS_PER_DEGREE
) -> torch.Tensor:
    """FLIP error map (H, W) of two sRGB images (3, H, W) in [0, 1] (Andersson et al. 2020)."""
    a, b = (_opponent(_xyz(_linear(image.clamp(0, 1)))) for image in (a, b))
    seen_a, seen_b = (_lab(_resolved(image, pixels_per_degree)) for image in (a, b))
    colour = _compressed(_distance(seen_a, seen_b))
    features_a, features_b = (_features((i[0] + 16) / 116, pixels_per_degree) for i in (a, b))
    feature = (features_a - features_b).abs().amax(0) / math.sqrt(2)
    return colour ** (1 - feature**_EDGE_EXPONENT)


def _linear(srgb: torch.Tensor) -> torch.Tensor:
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _xyz(rgb: torch.Tensor) -> torch.Tensor:
    """Linear RGB (3, ...) to XYZ, relative to white's."""
    return _times(_relative_to_white(), rgb)


def _opponent(xyz: torch.Tensor) -> torch.Tensor:
    """XYZ to lightness, red to green and blue to yellow: YCxCz, linear in XYZ."""
    x, y, z = xyz
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def _resolved(opponent: torch.Tensor, pixels_per_degree: float) -> torch.Tensor:
    """What the eye resolves of YCxCz at a distance, as XYZ of colours that a screen can show."""
    widest = max(width for gaussians in _SENSITIVITY for _, width in gaussians)
    radius = math.ceil(3 * _sigma(widest) * pixels_per_degree)
    channels = []
    for channel, gaussians in zip(opponent, _SENSITIVITY, strict=True):
        kernels = [_gaussian(radius, _sigma(width) * pixels_per_degree) for _, width in gaussians]
        # A Gaussian's volume is what counts: its height is weight·√(π/width).
        volumes = [
            weight * math.sqrt(math.pi / width) * _volume(radius, _sigma(width) * pixels_per_degree)
            for weight, width in gaussians
        ]
        parts = [
            volume * _filtered(_padded(channel, radius), kernel, kernel)
            for volume, kernel in zip(volumes, kernels, strict=True)
        ]
        channels.append(torch.stack(parts).sum(0) / sum(volumes))
    y, x, z = channels
    y = (y + 16) / 116
    rgb = _times(_relative_to_white().inverse(), torch.stack([y + x / 500, y, y - z / 200]))
    return _xyz(rgb.clamp(0, 1))


def _lab(xyz: torch.Tensor) -> torch.Tensor:
    """XYZ to L*a*b*, colours fading with darkness as Hunt found (3, ...)."""
    knee = 6 / 29
    roots = torch.where(
        xyz > knee**3, xyz.clamp_min(knee**3) ** (1 / 3), xyz / (3 * knee**2) + 4 / 29
    )
    x, y, z = roots
    lightness = 116 * y - 16
    return torch.stack([lightness, 5 * lightness * (x - y), 2 * lightness * (y - z)])


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """HyAB distance of L*a*b* colours, with FLIP's exponent."""
    apart = a - b
    return (apart[0].abs() + apart[1:].square().sum(0).sqrt()) ** _COLOUR_EXPONENT


def _compressed(distance: torch.Tensor) -> torch.Tensor:
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


def _features(lightness: torch.Tensor, pixels_per_degree: float) -> torch.Tensor:
    """Strength of edges and of points in (H, W), shape (2, H, W)."""
    sigma = 0.5 * _EDGE_WIDTH * pixels_per_degree
    radius = math.ceil(3 * sigma)
    window = _gaussian(radius, sigma)
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


def _volume(radius: int, sigma: float) -> float:
    return sum(_bell(radius, sigma)) ** 2


def _gaussian(radius: int, sigma: float) -> list[float]:
    """Weights that sum to 1."""
    bell = _bell(radius, sigma)
    return [weight / sum(bell) for weight in bell]


def _relative_to_white() -> torch.Tensor:
    matrix = torch.tensor(_XYZ_OF_RGB, dtype=torch.float64)
    return matrix / matrix.sum(1, keepdim=True)


def _times(matrix: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Sums of products by hand: a matrix product may be rounded to TF32."""
    x, y, z = vectors
    return torch.stack([a * x + b * y + c * z for a, b, c in matrix.tolist()])


def _padded(image: torch.Tensor, radius: int) -> torch.Tensor:
    """(H, W) with its border repeated."""
    return F.pad(image[None, None], (radius,) * 4, mode="replicate")[0, 0]


def _filtered(image: torch.Tensor, across: Sequence[float], down: Sequence[float]) -> torch.Tensor:
    """A separable filter where it lies in (..., H, W); a convolution may be rounded to TF32."""
    for kernel, axis in ((across, -1), (down, -2)):
        length = image.shape[axis] - len(kernel) + 1
        total = torch.zeros_like(image.narrow(axis, 0, length))
        for place, weight in enumerate(kernel):
            total.add_(image.narrow(axis, place, length), alpha=weight)
        image = total
    return image
