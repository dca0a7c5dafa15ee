"""Files of users, and those that are written."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from magcache.app.compare import quality, side_by_side
from magcache.app.files import fitted, read_image, video_size, workspace, write_video
from magcache.app.settings import Problem


def saved(path: Path, image: Image.Image, **more: object) -> Path:
    image.save(path, **more)
    return path


def test_an_image_is_read_as_rgb_upright_and_on_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (64, 48), (255, 0, 0, 0))
    assert read_image(saved(tmp_path / "a.png", clear)).getpixel((0, 0)) == (255, 255, 255)
    grey = Image.new("L", (64, 48), 128)
    assert read_image(saved(tmp_path / "b.webp", grey)).mode == "RGB"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    turned = read_image(saved(tmp_path / "c.jpg", grey, exif=exif))
    assert turned.size == (48, 64)


def test_what_is_wrong_with_an_image_is_said(tmp_path: Path) -> None:
    text, cut = tmp_path / "text.png", tmp_path / "cut.png"
    text.write_text("this is no image")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))
    cut.write_bytes(saved(tmp_path / "whole.png", noise).read_bytes()[:5000])
    large = tmp_path / "large.png"
    large.write_bytes(b"\x89PNG" + bytes(21 * 2**20))
    cases = {
        text: "This file is not an image: use PNG, JPEG, WEBP, BMP.",
        cut: "The image is damaged",
        large: "The image file is larger than 20 MB.",
        saved(tmp_path / "huge.png", Image.new("1", (9000, 6000))): "9000 × 6000 pixels: scale it",
        saved(tmp_path / "tiny.png", Image.new("L", (20, 20))): "each side needs 32 or more",
        saved(tmp_path / "long.png", Image.new("L", (400, 50))): "crop it",
        saved(tmp_path / "moving.gif", Image.new("L", (64, 64))): "This file is not an image",
        tmp_path / "gone.png": "choose it again",
    }
    for path, message in cases.items():
        with pytest.raises(Problem, match=message):
            read_image(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(12_000, 9_000), (20_000, 20_000)], ids=str)
def test_a_decompression_bomb_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    bomb = saved(tmp_path / "bomb.png", Image.new("1", size))
    assert bomb.stat().st_size < 2**20
    with pytest.raises(Problem, match="pixels: scale it down to 50 megapixels"):
        read_image(bomb)


@pytest.mark.parametrize(
    ("image", "resolution", "video"),
    [
        ((1000, 1000), 640, (640, 640)),
        ((1920, 1080), 640, (864, 480)),
        ((1080, 1920), 640, (480, 864)),
        ((512, 512), 64, (64, 64)),
        ((400, 100), 64, (128, 32)),
    ],
)
def test_a_video_has_the_shape_of_its_image(
    image: tuple[int, int], resolution: int, video: tuple[int, int]
) -> None:
    assert video_size(*image, resolution) == video
    assert fitted(Image.new("RGB", image), video).size == video


def test_a_video_is_written_and_read_back(tmp_path: Path) -> None:
    frames = np.zeros((12, 48, 80, 3), np.uint8)
    frames[:, :, :40, 0] = 200
    path = write_video(tmp_path / "a.mp4", frames, crf=16)
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    assert about["source_size"] == (80, 48) and about["fps"] == 30
    assert "h264" in about["codec"] and "yuv420p" in about["pix_fmt"]
    read = [np.frombuffer(frame, np.uint8).reshape(48, 80, 3) for frame in reader]
    assert len(read) == 12
    assert np.abs(read[6][24, 20].astype(int) - (200, 0, 0)).max() < 12


def test_everything_in_the_workspace_goes_with_it() -> None:
    with workspace() as folder:
        (folder / "job").mkdir()
        (folder / "job" / "video.mp4").write_bytes(b"0")
    assert not folder.exists()


def test_equal_videos_are_equal_and_a_darker_one_is_not() -> None:
    video = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), np.uint8)
    video = video.repeat(8, 1).repeat(8, 2)
    same, other = quality(video, video), quality(video, video // 2)
    assert same.figures()["PSNR"] == "equal" and same.ssim == 1
    assert other.psnr < 20 and other.ssim < 0.9
    if same.vmaf is not None:  # an ffmpeg with libvmaf
        assert other.vmaf is not None and other.vmaf < 90 < same.vmaf
        assert set(same.figures()) == {"PSNR", "SSIM", "VMAF"}


def test_without_libvmaf_there_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "/bin/false")
    video = np.zeros((2, 16, 16, 3), np.uint8)
    assert quality(video, video).vmaf is None
    assert set(quality(video, video).figures()) == {"PSNR", "SSIM"}


@pytest.mark.parametrize("size", [(64, 64), (48, 33)], ids=str)
def test_side_by_side_both_are_whole(size: tuple[int, int]) -> None:
    red, blue = np.zeros((2, *size, 3), np.uint8), np.zeros((2, *size, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    joined = side_by_side({"Uncached": red, "MagCache": blue})
    assert joined.shape[0] == 2 and joined.shape[1] % 2 == joined.shape[2] % 2 == 0
    assert (joined[0] == (255, 0, 0)).all(-1).sum() == size[0] * size[1]
    assert (joined[0] == (0, 0, 255)).all(-1).sum() == size[0] * size[1]
