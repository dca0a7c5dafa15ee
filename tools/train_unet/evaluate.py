"""Samples the exported U-Net and counts how often the picture is the prompted one.

    python -m tools.train_unet.evaluate

Writes evaluation.json, grid.png, loss.png and the training log next to the model.
"""

import argparse
import dataclasses
from itertools import product
from pathlib import Path

import torch

from magcache.emoji import unet as library
from tools import exporting
from tools.exporting import evenly, read_log
from tools.train_emoji import data as artwork
from tools.train_emoji.evaluate import grid, loss_curve, nearest, sample, write
from tools.train_unet import data
from tools.train_unet.export import FOLDER, HERE

STEPS = (28, 20)
CFG = 5.0
LOSS = "error of the noise, weighted"
SHOWN = 16
SCALES = ((1 + data.SMALLEST) / 2, data.SMALLEST)
PLACES = (-1.0, 0.0, 1.0)


def versions() -> list[artwork.EmojiSet]:
    """The training set drawn at full size, and at two smaller sizes in nine positions each."""
    emoji, art = artwork.load(), data.load()
    shape = art.shape[:2]
    flat = art.flatten(0, 1)
    drawn = []
    for scale, x, y in [(1.0, 0.0, 0.0), *product(SCALES, PLACES, PLACES)]:
        pictures = data.draw(
            flat, torch.full((len(flat),), scale), torch.tensor([x, y]).expand(len(flat), 2)
        )
        images = pictures[:, :3].unflatten(0, shape)
        drawn.append(dataclasses.replace(emoji, images=images))
    return drawn


def nearest_of(samples: torch.Tensor, sets: list[artwork.EmojiSet]) -> list[dict[str, str | float]]:
    """Like `nearest`, over all versions of the training images."""
    found = [nearest(samples, training) for training in sets]
    return [min(options, key=lambda best: best["distance"]) for options in zip(*found, strict=True)]


def evaluate(folder: Path) -> None:
    model, sets = library.load(folder), versions()
    prompts = model.prompts("test")
    drawn = {steps: sample(model, prompts, steps, CFG) for steps in STEPS}
    found = {steps: nearest_of(samples, sets) for steps, samples in drawn.items()}
    hits = {
        steps: sum(p == best["nearest"] for p, best in zip(prompts, best_of, strict=True))
        for steps, best_of in found.items()
    }
    report = exporting.evaluation_of(folder, prompts, found[STEPS[0]], {"steps": 28, "cfg": CFG})
    samples = report.pop("samples")
    report |= {"hits_by_steps": hits, "samples": samples}
    shown = [prompts.index(prompt) for prompt in evenly(prompts, SHOWN)]
    rows = [(steps, shown[at : at + 8]) for at in range(0, SHOWN, 8) for steps in STEPS]
    picture = grid(
        torch.cat([drawn[steps][row] for steps, row in rows]),
        [f"{prompts[i]}, {steps} steps" for steps, row in rows for i in row],
    )
    log = HERE / "training_log.jsonl"
    write(folder, report, picture, log, loss_curve(read_log(log), LOSS))
    print(f"nearest training image is the prompted one, of {len(prompts)}, by steps: {hits}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    torch.set_num_threads(1)  # the fastest for a model of this size
    evaluate(**vars(parser.parse_args()))
