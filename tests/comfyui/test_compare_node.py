"""MagCache Compare: its figures, its picture, and what it says to images that do not fit."""

from collections.abc import Iterator
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch

from magcache import images
from magcache.hosts.comfyui.nodes.compare import MagCacheCompare
from magcache.pictures.comparison import MARGIN, WIDTH, shaded

PANEL = (MARGIN, 500)  # about where A ends; all panels are alike


@pytest.fixture(autouse=True)
def folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))


def frames(count: int = 1, height: int = 40, width: int = 60, seed: int = 0) -> torch.Tensor:
    """Smooth coloured pictures (N, H, W, 3)."""
    coarse = torch.rand(count, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").movedim(1, -1)


def changed(batch: torch.Tensor, frame: int, by: float = 0.2) -> torch.Tensor:
    """One frame's upper left quarter made darker."""
    batch = batch.clone()
    batch[frame, : batch.shape[1] // 2, : batch.shape[2] // 2] *= 1 - by
    return batch


def compare(a: torch.Tensor, b: torch.Tensor) -> tuple[np.ndarray, str]:
    """Picture (H, W, 3) in 0..255 and text, as they leave the node."""
    picture, text = MagCacheCompare().compare(a, b)["result"]
    assert picture.shape[0] == 1 and picture.shape[2:] == (WIDTH, 3)
    return (picture[0].numpy() * 255).round().astype(int), text


def test_the_text_holds_the_figures_of_one_image() -> None:
    a, b = frames(), changed(frames(), 0)
    found = images.difference(a, b)
    lines = compare(a, b)[1].splitlines()
    figures = f"{found.psnr:.2f} dB, SSIM {found.ssim:.4f}"
    assert lines[0] == f"PSNR {figures}, FLIP {found.flip:.4f}"
    assert lines[1] == "one image of 60x40" and "differs most" not in " ".join(lines)


def test_of_several_frames_it_names_the_one_that_differs_most() -> None:
    a = frames(5)
    b = changed(changed(a, 3), 1, 0.05)
    lines = compare(a, b)[1].splitlines()
    worst = images.difference(a[3:4], b[3:4])
    figures = f"{worst.psnr:.2f} dB, SSIM {worst.ssim:.4f}"
    assert lines[1] == "5 frames of 60x40"
    assert lines[2].startswith(f"frame 4 differs most, by FLIP: PSNR {figures}")
    mean = images.psnr(images.squared_error(a, b))  # of all frames together
    ssim = images.difference(a, b).ssim
    assert lines[0].startswith(f"PSNR {mean:.2f} dB, SSIM {ssim:.4f}, ")


def test_equal_images_are_called_equal() -> None:
    for count in (1, 4):
        text = compare(frames(count), frames(count))[1]
        assert text.startswith("PSNR infinite, SSIM 1.0000, FLIP 0.0000\n")
        assert "A and B are equal" in text and "differs" not in text


def test_the_difference_lights_up_where_it_is() -> None:
    picture, _ = compare(frames(), changed(frames(), 0, 0.5))
    map_of_a, map_of_difference = picture[:, slice(*PANEL)], picture[:, WIDTH - PANEL[1] : -MARGIN]
    assert map_of_difference.shape == map_of_a.shape
    rows = np.flatnonzero((map_of_a.max(-1) - map_of_a.min(-1) > 60).mean(1) > 0.5)
    top, bottom = rows[0], rows[-1]  # of A, and so of the map
    panel = map_of_difference[top:bottom].sum(-1)
    half = (panel.shape[0] // 2, panel.shape[1] // 2)
    assert panel[: half[0] - 30, : half[1] - 30].mean() > 2 * panel[half[0] + 30 :].mean()


def test_the_shades_rise_in_lightness() -> None:
    lightness = np.asarray(shaded(np.linspace(0, 1, 50)[None])).astype(float)[0] @ [0.3, 0.6, 0.1]
    assert (np.diff(lightness) > 0).all() and lightness[0] < 15 and lightness[-1] > 240


def test_a_video_gets_curves_and_an_image_none() -> None:
    one, _ = compare(frames(1), changed(frames(1), 0))
    several, _ = compare(frames(9), changed(frames(9), 4))
    assert len(several) > len(one) + 400
    marked = (np.abs(several[len(one) :] - [255, 107, 87]) <= 2).all(-1)  # the red line
    columns = np.flatnonzero(marked.sum(0) > 100)
    assert columns.mean() == pytest.approx((170 + WIDTH - MARGIN) / 2, abs=3), "frame 5 of 9"


@pytest.mark.parametrize(("height", "width"), [(300, 1200), (1200, 300), (11, 11), (999, 1001)])
def test_any_shape_of_image_fits_the_card(height: int, width: int) -> None:
    a = frames(1, height, width)
    picture, text = compare(a, changed(a, 0))
    assert f"one image of {width}x{height}" in text and len(picture) < 1000


def test_other_sizes_are_refused_with_both_and_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"image_a holds 1 of 60x40 and image_b holds 1 of 64x40.*"
                       "sample both at the same size.*Upscale Image"):  # fmt: skip
        compare(frames(), frames(1, 40, 64))


def test_another_number_of_frames_is_refused_with_both_and_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"holds 5 of 60x40 and image_b holds 4 of 60x40.*"
                       "ImageFromBatch"):  # fmt: skip
        compare(frames(5), frames(4))


def test_images_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 11 pixels a side.* 40x10: compare larger"):
        compare(frames(1, 10, 40), frames(1, 10, 40))


def test_transparency_is_left_out_and_grey_is_a_colour() -> None:
    a, b = frames(), changed(frames(), 0)
    clear = torch.cat([a, torch.zeros(*a.shape[:3], 1)], -1)
    assert compare(clear, b)[1] == compare(a, b)[1]
    grey = a.mean(-1, keepdim=True)
    assert compare(grey, grey.expand(a.shape))[1].startswith("PSNR infinite")


def test_images_with_nan_are_drawn_and_told() -> None:
    broken = frames(3)
    broken[1] = float("nan")
    assert "nan" in compare(frames(3), broken)[1]
    assert "nan" in compare(frames(1), broken[1:2])[1]


@pytest.fixture
def progress() -> Iterator[list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    hook = comfy.utils.set_progress_bar_global_hook
    hook(lambda value, total, *_, **__: seen.append((value, total)))
    try:
        yield seen
    finally:
        hook(None)


def test_a_video_is_compared_frame_by_frame_with_progress(
    progress: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []

    def one(a: torch.Tensor, b: torch.Tensor) -> Any:
        shapes.append((a.shape, b.shape))
        return flip(a, b)

    flip = images.flip
    monkeypatch.setattr(images, "flip", one)
    compare(frames(6), changed(frames(6), 2))
    assert shapes == [((40, 60, 3), (40, 60, 3))] * 6
    assert (progress[0], progress[-1]) == ((1, 6), (6, 6))


def test_it_can_be_interrupted() -> None:
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        compare(frames(6), frames(6))
    assert "6 frames" in compare(frames(6), frames(6))[1], "once only"
