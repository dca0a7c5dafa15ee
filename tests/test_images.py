"""PSNR, SSIM and FLIP, held to scikit-image, flip-evaluator and hand-made values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from magcache.images import SSIM_WINDOW, compare, difference, flip, psnr, squared_error, ssim

GRID = Path(__file__).parents[1] / "models" / "emoji" / "grid.png"
NOISE = np.random.default_rng(0)


def picture(height: int = 150, width: int = 201) -> np.ndarray:
    """A part of what the emoji model has drawn, (H, W, 3) in [0, 1]."""
    with Image.open(GRID) as image:
        return np.asarray(image.convert("RGB"), np.float32)[:height, :width] / 255


def noisy(image: np.ndarray, spread: float) -> np.ndarray:
    return (image + NOISE.normal(0, spread, image.shape)).clip(0, 1).astype(np.float32)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hardly": lambda image: noisy(image, 0.002),
    "noise": lambda image: noisy(image, 0.05),
    "moved": lambda image: np.roll(image, 2, 1),
    "darker": lambda image: image * np.float32(0.8),
    "grey": lambda image: image.mean(-1, keepdims=True).repeat(3, -1),
    "unrelated": lambda image: NOISE.random(image.shape, np.float32),
}


@pytest.fixture(params=CHANGES)
def pair(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    return picture(), CHANGES[request.param](picture())


def found(pair: tuple[np.ndarray, np.ndarray]) -> tuple[float, float, np.ndarray]:
    a, b = (torch.from_numpy(np.ascontiguousarray(image)) for image in pair)
    return squared_error(a, b), ssim(a, b), flip(a, b).numpy()


def test_psnr_is_that_of_scikit_image(pair: tuple[np.ndarray, np.ndarray]) -> None:
    expected = peak_signal_noise_ratio(*pair, data_range=1.0)
    assert psnr(found(pair)[0]) == pytest.approx(expected, abs=1e-3)


def test_ssim_is_that_of_scikit_image(pair: tuple[np.ndarray, np.ndarray]) -> None:
    expected: Any = structural_similarity(
        *pair, channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert found(pair)[1] == pytest.approx(expected, abs=1e-4)


def test_flip_is_that_of_its_authors_at_every_pixel(pair: tuple[np.ndarray, np.ndarray]) -> None:
    evaluator = pytest.importorskip("flip_evaluator")  # it has no wheel for every Python
    errors, mean, _ = evaluator.evaluate(*pair, "LDR", applyMagma=False)
    own = found(pair)[2]
    assert own.shape == pair[0].shape[:2]
    assert np.abs(own - np.asarray(errors).squeeze()).max() < 2e-3
    assert own.mean() == pytest.approx(mean, abs=2e-4)


def test_equal_images_do_not_differ() -> None:
    error, similar, seen = found((picture(), picture()))
    assert psnr(error) == float("inf") and similar == pytest.approx(1) and seen.max() == 0


def test_values_that_can_be_worked_out() -> None:
    assert psnr(0.01) == pytest.approx(20)
    green, blue, black = (np.zeros((20, 30, 3), np.float32) for _ in range(3))
    green[..., 1] = blue[..., 2] = 1
    assert found((green, blue))[2] == pytest.approx(np.ones((20, 30)))  # the largest difference
    error, similar, _ = found((black, black + 1))
    assert error == 1 and similar == pytest.approx(0.01**2 / (1 + 0.01**2))


def test_the_smallest_image_has_one_window() -> None:
    small = picture(SSIM_WINDOW, SSIM_WINDOW)
    _, similar, seen = found((small, noisy(small, 0.1)))
    assert 0 < similar < 1 and seen.shape == (SSIM_WINDOW, SSIM_WINDOW) and np.isfinite(seen).all()


@pytest.mark.parametrize("size", [(6, 32), (32, 10), (10, 10)])
def test_a_smaller_image_is_refused_with_what_to_do(size: tuple[int, int]) -> None:
    black = torch.zeros(1, *size, 3)
    message = rf"needs at least 11 pixels a side.* are {size[1]}x{size[0]}: compare larger ones"
    for measured in (compare, difference):
        with pytest.raises(ValueError, match=message):
            measured(black, black)


def test_a_batch_is_measured_pair_by_pair() -> None:
    a = np.stack([picture(40, 50)] * 3)
    b = np.stack([a[0], noisy(a[1], 0.3), noisy(a[2], 0.01)])
    every = [found(pair) for pair in zip(a, b, strict=True)]
    seen: list[int] = []
    batch = compare(torch.from_numpy(a), torch.from_numpy(b), done=lambda: seen.append(1))
    assert batch.squared_errors == [error for error, _, _ in every]
    assert batch.ssims == [similar for _, similar, _ in every] and len(seen) == 3
    assert batch.worst == 1 and np.array_equal(batch.errors.numpy(), every[1][2])
    means = difference(a[1:], b[1:])  # arrays or tensors: the same figures
    assert means.psnr == pytest.approx(np.mean(batch.psnrs[1:]))
    assert means.ssim == pytest.approx(np.mean(batch.ssims[1:]))
    assert means.flip == pytest.approx(np.mean(batch.flips[1:]))
