"""Compares a video with one sampled without MagCache, in figures and side by side."""

import json
import math
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..images import psnr, squared_error, ssim
from .files import enlarged
from .settings import FPS

NO_VMAF = "VMAF was not measured, because this ffmpeg has no libvmaf."
_MARGIN = 8  # pixels between the videos; half of it above and below their titles


@dataclass(frozen=True)
class Quality:
    """Means over the frames.

    Attributes:
        psnr: Peak signal-to-noise ratio in dB; infinite where all frames are equal.
        ssim: Structural similarity, 1 where equal.
        vmaf: VMAF with ffmpeg's default model (made for 1080p), 0 to 100; None without libvmaf.
    """

    psnr: float
    ssim: float
    vmaf: float | None

    def figures(self) -> dict[str, str]:
        """The values by name, formatted for display."""
        psnr = "equal" if math.isinf(self.psnr) else f"{self.psnr:.1f} dB"
        shown = {"PSNR": psnr, "SSIM": f"{self.ssim:.4f}"}
        return shown if self.vmaf is None else shown | {"VMAF": f"{self.vmaf:.1f}"}


def quality(reference: np.ndarray, frames: np.ndarray) -> Quality:
    """Compares two videos (F, H, W, 3) of uint8, frame by frame."""
    errors, similar = [], []
    for first, second in zip(reference, frames, strict=True):
        a, b = (torch.from_numpy(frame).float() / 255 for frame in (first, second))
        errors.append(squared_error(a, b))
        similar.append(ssim(a, b))
    return Quality(fmean(map(psnr, errors)), fmean(similar), vmaf(reference, frames))


def vmaf(reference: np.ndarray, frames: np.ndarray) -> float | None:
    """VMAF of two videos, from imageio-ffmpeg's own ffmpeg; None if that cannot measure it."""
    import imageio_ffmpeg

    height, width = frames.shape[1:3]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FPS), "-i"]
    compared = "[0:v]format=yuv420p[a];[1:v]format=yuv420p[b];[a][b]libvmaf"
    with tempfile.TemporaryDirectory() as folder:
        for name, video in (("distorted", frames), ("reference", reference)):
            Path(folder, name).write_bytes(video.tobytes())
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *raw, "distorted"]
        command += [*raw, "reference", "-f", "null", "-", "-lavfi"]
        command += [f"{compared}=log_fmt=json:log_path=log.json"]
        if subprocess.run(command, cwd=folder, capture_output=True).returncode:
            return None
        log = json.loads(Path(folder, "log.json").read_text(encoding="utf-8"))
    return float(log["pooled_metrics"]["vmaf"]["mean"])


def side_by_side(videos: dict[str, np.ndarray], zoom: int = 1) -> np.ndarray:
    """Videos next to each other under their titles, (F, H, W, 3) of uint8, sides even.

    Args:
        videos: Videos by their titles.
        zoom: Factor by which to enlarge each pixel.
    """
    videos = {title: enlarged(video, zoom) for title, video in videos.items()}
    count, height, width, _ = next(iter(videos.values())).shape
    font = ImageFont.load_default(max(8, height // 24))
    top = _MARGIN + int(font.getbbox("Uncached")[3])
    across = len(videos) * (width + _MARGIN) - _MARGIN
    size = (across + across % 2, top + height + (top + height) % 2)
    ground = Image.new("RGB", size, "black")
    draw = ImageDraw.Draw(ground)
    for place, title in enumerate(videos):
        middle = place * (width + _MARGIN) + width / 2
        draw.text((middle, _MARGIN / 2), title, "white", font, anchor="ma")
    joined = np.repeat(np.asarray(ground)[None], count, axis=0)
    for place, video in enumerate(videos.values()):
        left = place * (width + _MARGIN)
        joined[:, top : top + height, left : left + width] = video
    return joined
