"""How far images are from a reference: PSNR, SSIM and FLIP. Needs the extra `demo`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Difference:
    """Means over image pairs.

    Attributes:
        psnr: Peak signal-to-noise ratio in dB, more is nearer; infinite where all are equal.
        ssim: Structural similarity, 1 where equal.
        flip: Mean FLIP error, 0 where equal (Andersson et al. 2020, viewed at its default 67
            pixels a degree); None where the package flip-evaluator is missing.
    """

    psnr: float
    ssim: float
    flip: float | None


def difference(reference: np.ndarray, images: np.ndarray) -> Difference:
    """Compares images (N, H, W, 3) in [0, 1] pair by pair.

    Raises:
        ValueError: The two differ in shape, or a side is shorter than SSIM's window of 7.
    """
    if reference.shape != images.shape or reference.ndim != 4 or reference.shape[-1] != 3:
        raise ValueError(f"cannot compare images {reference.shape} with {images.shape}")
    pairs = list(zip(reference.astype(np.float32), images.astype(np.float32), strict=True))
    return Difference(
        psnr=mean_psnr([float(np.square(a - b).mean()) for a, b in pairs]),
        ssim=float(np.mean([ssim(a, b) for a, b in pairs])),
        flip=_mean_flip(pairs),
    )


def ssim(reference: np.ndarray, image: np.ndarray) -> float:
    """Structural similarity of two images (H, W, 3) in [0, 1]."""
    from skimage.metrics import structural_similarity

    similar: Any = structural_similarity(reference, image, channel_axis=-1, data_range=1.0)
    return float(similar)


def mean_psnr(squared_errors: Sequence[float]) -> float:
    """Mean over images of -10·log10(mean squared error), in dB; images in [0, 1]."""
    with np.errstate(divide="ignore"):
        return float(np.mean(-10 * np.log10(squared_errors)))


def _mean_flip(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float | None:
    try:
        from flip_evaluator import evaluate
    except ModuleNotFoundError:  # it has no wheel for every Python
        return None
    return float(np.mean([evaluate(a, b, "LDR", applyMagma=False)[1] for a, b in pairs]))
