"""Makes the README's animated picture: clips of the video model, uncached and accelerated.

python -m tools.clips
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import magcache
from magcache.emoji import video as emoji_video
from magcache.images import difference

PAGE = Path("docs/clips.gif")
STEPS, PROMPTS = 28, 6
ZOOM, GAP, LEFT, TOP = 3, 6, 190, 8  # pixels


def sampled() -> dict[str, np.ndarray]:
    """Rows of clips (N, frames, H, W, 3) of the first test prompts, by label."""
    model = emoji_video.load()
    prompts, seeds = model.prompts("test")[:PROMPTS], range(PROMPTS)

    def clips(steps: int = STEPS) -> np.ndarray:
        return model.generate(prompts, seeds, steps).permute(0, 2, 3, 4, 1).numpy()

    with magcache.apply(model.pipe, calibrate=True) as applied:
        model.generate(model.prompts("calibration")[:1], [0], STEPS)
        calibration = applied.calibration()
    rows = {"uncached": clips()}
    for speedup in (1.5, 2.0):
        with magcache.apply(model.pipe, calibration=calibration, speedup=speedup) as applied:
            found = clips()
            computed = applied.report().computed
        rows[f"MagCache {speedup:g}x, {computed} of {STEPS}"] = found
        rows[f"plain, {computed} steps"] = clips(computed)
    return rows


def told(name: str, clips: np.ndarray, uncached: np.ndarray) -> str:
    """The label of a row: its name and mean PSNR."""
    if clips is uncached:
        return f"{name}, {STEPS} steps"
    psnr = np.mean([difference(a, b).psnr for a, b in zip(uncached, clips, strict=True)])
    return f"{name}\n{psnr:.1f} dB"


def drawn(rows: dict[str, np.ndarray]) -> list[Image.Image]:
    """The frames of the picture."""
    uncached = rows["uncached"]
    labels = [told(name, clips, uncached) for name, clips in rows.items()]
    count, frames, side = uncached.shape[:3]
    cell = side * ZOOM + GAP
    size = LEFT + count * cell, TOP + len(rows) * cell
    pictures = []
    for frame in range(frames):
        picture = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(picture)
        for row, (label, clips) in enumerate(zip(labels, rows.values(), strict=True)):
            top = TOP + row * cell
            draw.text((8, top + cell // 3), label, "black", ImageFont.load_default(13))
            for column, clip in enumerate(clips):
                pixels = Image.fromarray((clip[frame] * 255).round().astype(np.uint8))
                wide = pixels.resize((side * ZOOM, side * ZOOM), Image.Resampling.NEAREST)
                picture.paste(wide, (LEFT + column * cell, top))
        pictures.append(picture)
    return pictures


def main() -> None:
    torch.set_num_threads(1)
    first, *others = drawn(sampled())
    PAGE.parent.mkdir(exist_ok=True)
    first.save(PAGE, save_all=True, append_images=others, duration=140, loop=0, optimize=True)


if __name__ == "__main__":
    main()
