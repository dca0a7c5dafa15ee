"""Samples the exported video model and counts how often the clip is the prompted one.

    python -m tools.train_video.evaluate

Writes evaluation.json, clips.png, loss.png and the training log next to the model.
"""

import argparse
import io
import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from magcache.emoji import video as emoji_video
from tools import exporting
from tools.exporting import read_log, replace
from tools.train_emoji.evaluate import loss_curve
from tools.train_video import data
from tools.train_video.export import FOLDER
from tools.train_video.train import HERE

STEPS = 28
CFG = 3.0
SHIFT = 3.0
BATCH = 8
SHOWN = 16
ZOOM = 2


def sample(model: emoji_video.EmojiVideoModel, prompts: list[str]) -> torch.Tensor:
    """Clips (N, 3, 8, 32, 32) in [0, 1]. The seed of each prompt is its index."""
    parts = []
    for at in range(0, len(prompts), BATCH):
        chosen = prompts[at : at + BATCH]
        parts.append(model.generate(chosen, range(at, at + len(chosen)), STEPS, CFG))
        print(f"{at + len(chosen)} of {len(prompts)} clips", flush=True)
    return torch.cat(parts)


def nearest(samples: torch.Tensor, loops: data.Loops) -> list[dict[str, str | float]]:
    """For each sample, the training loop with the smallest L2 distance at any phase."""
    clips = [
        loops.clip(prompt, phase).flatten() / 2 + 0.5
        for prompt in range(len(loops.prompts))
        for phase in range(data.PHASES)
    ]
    values, places = torch.cdist(samples.flatten(1), torch.stack(clips)).min(1)
    return [
        {"nearest": loops.prompts[place // data.PHASES], "distance": round(value, 3)}
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
    ]


def filmstrip(samples: torch.Tensor, prompts: list[str]) -> Image.Image:
    """A row of eight frames per sample, two samples side by side, with their prompts."""
    font = ImageFont.load_default(11)
    side = 32 * ZOOM
    width, height = 8 * side + 24, side + 22
    picture = Image.new("RGB", (2 * width, -(-len(prompts) // 2) * height), "white")
    draw = ImageDraw.Draw(picture)
    for number, (clip, prompt) in enumerate(zip(samples, prompts, strict=True)):
        left, top = number % 2 * width + 12, number // 2 * height
        for place, frame in enumerate(clip.transpose(0, 1)):
            pixels = (frame * 255).round().byte().permute(1, 2, 0).numpy()
            image = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            picture.paste(image, (left + place * side, top))
        draw.text((left, top + side + 3), prompt, fill="black", font=font)
    return picture


def evaluate(folder: Path, limit: int | None) -> None:
    model = emoji_video.load(folder, shift=SHIFT)
    prompts = model.prompts("test")[:limit]
    samples = sample(model, prompts)
    found = nearest(samples, data.load())
    made_with = {"steps": STEPS, "cfg": CFG, "shift": SHIFT}
    report = exporting.evaluation_of(folder, prompts, found, made_with)
    shown = torch.linspace(0, len(prompts) - 1, min(len(prompts), SHOWN)).round().int()
    buffer = io.BytesIO()
    filmstrip(samples[shown], [prompts[i] for i in shown]).save(buffer, "PNG", optimize=True)
    log = HERE / "training_log.jsonl"
    replace(folder / "evaluation.json", json.dumps(report, indent=1).encode())
    replace(folder / "clips.png", buffer.getvalue())
    replace(folder / "loss.png", loss_curve(read_log(log)))
    replace(folder / "training_log.jsonl", log.read_bytes())
    print(f"nearest training clip is the prompted one: {report['fraction']:.0%} of {len(prompts)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--limit", type=int, help="use only the first prompts, for a quick look")
    torch.set_num_threads(1)
    evaluate(**vars(parser.parse_args()))
