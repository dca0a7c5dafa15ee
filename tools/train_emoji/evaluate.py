"""Samples the exported model and counts how often the picture is the prompted one.

    python -m tools.train_emoji.evaluate

Writes evaluation.json, grid.png, loss.png and the training log next to the model.
"""

import argparse
import io
import json
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont

from magcache.emoji import image as library
from magcache.emoji.model import EmojiPipeline
from tools import exporting
from tools.exporting import read_log, replace
from tools.train_emoji import data
from tools.train_emoji.export import FOLDER
from tools.train_emoji.train import LOG

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STEPS = 28
CFG = 3.0
BATCH = 32
ROWS, COLUMNS = 6, 8
ZOOM = 3
CAPTION_LINES = 3


def sample(model: EmojiPipeline, prompts: list[str], steps: int, cfg: float) -> torch.Tensor:
    """Images (N, 3, 32, 32) in [0, 1]. The seed of each prompt is its index."""
    parts = [
        model.generate(prompts[at : at + BATCH], range(len(prompts))[at : at + BATCH], steps, cfg)
        for at in range(0, len(prompts), BATCH)
    ]
    return torch.cat(parts)


def nearest(samples: torch.Tensor, training: data.EmojiSet) -> list[dict[str, str | float]]:
    """For each sample, the training image with the smallest L2 distance of RGB in [0, 1]."""
    candidates = (training.images / 2 + 0.5).flatten(0, 1).flatten(1)
    distances = torch.cdist(samples.flatten(1), candidates)
    values, indices = distances.min(1)
    count = len(training.prompts)
    return [
        {
            "nearest": training.prompts[i % count],
            "vendor": training.vendors[i // count],
            "distance": round(value, 3),
        }
        for value, i in zip(values.tolist(), indices.tolist(), strict=True)
    ]


def grid(samples: torch.Tensor, prompts: list[str]) -> Image.Image:
    """Rows of 8 samples at three times their size, with their prompts as captions."""
    font = ImageFont.load_default(11)
    side, gap, line = 32 * ZOOM, 16, 13
    width, height = side + gap, side + gap + CAPTION_LINES * line
    picture = Image.new("RGB", (COLUMNS * width, -(-len(samples) // COLUMNS) * height), "white")
    draw = ImageDraw.Draw(picture)
    for i, (image, prompt) in enumerate(zip(samples, prompts, strict=True)):
        x, y = i % COLUMNS * width + gap // 2, i // COLUMNS * height + gap // 2
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        cell = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
        picture.paste(cell, (x, y))
        lines = textwrap.wrap(prompt, 17)[:CAPTION_LINES]
        for n, text in enumerate(lines):
            place = (x + side // 2, y + side + 3 + n * line)
            draw.text(place, text, fill="black", font=font, anchor="ma")
    return picture


def loss_curve(losses: dict[int, float], loss: str = "flow-matching loss") -> bytes:
    """A PNG of the mean training loss over steps, on logarithmic axes; `loss` is its name."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.loglog(list(losses), list(losses.values()), linewidth=1)
    axes.set(xlabel="step", ylabel=loss, title="Training of the emoji model")
    axes.grid(which="both", alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def evaluate(folder: Path, limit: int | None) -> None:
    model = library.load(folder)
    prompts = model.prompts("test")[:limit]
    samples = sample(model, prompts, STEPS, CFG)
    found = nearest(samples, data.load())
    report = exporting.evaluation_of(folder, prompts, found, {"steps": STEPS, "cfg": CFG})
    shown = torch.linspace(0, len(prompts) - 1, min(len(prompts), ROWS * COLUMNS)).round().int()
    picture = grid(samples[shown], [prompts[i] for i in shown])
    write(folder, report, picture, LOG, loss_curve(read_log(LOG)))


def write(
    folder: Path, report: dict[str, Any], picture: Image.Image, log: Path, loss: bytes
) -> None:
    """Writes evaluation.json, grid.png, loss.png and the training log next to the model."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    replace(folder / "evaluation.json", json.dumps(report, indent=1).encode())
    replace(folder / "grid.png", buffer.getvalue())
    replace(folder / "loss.png", loss)
    replace(folder / "training_log.jsonl", log.read_bytes())
    missed = [sample for sample in report["samples"] if not sample["hit"]]
    print(
        f"nearest training image is the prompted one: all but {len(missed)} of {report['prompts']}"
    )
    for sample_ in missed:
        print(f"  {sample_['prompt']}: {sample_['nearest']} ({sample_['distance']})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--limit", type=int, help="use only the first prompts, for a quick look")
    torch.set_num_threads(1)  # the fastest for a model of this size
    evaluate(**vars(parser.parse_args()))
