"""Samples emoji-turbo with few steps, and measures what is lost with even fewer plain steps.

    python -m tools.train_turbo.evaluate

Writes evaluation.json, grid.png, loss.png and the training log next to the model.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from magcache.emoji import image, turbo
from magcache.emoji.model import EmojiPipeline
from magcache.images import psnr
from tools import exporting
from tools.exporting import read_log
from tools.train_emoji import data
from tools.train_emoji.evaluate import grid, loss_curve, nearest, sample, write
from tools.train_turbo.export import FOLDER, HERE
from tools.train_turbo.train import CFG, STEPS, TEACHER

FULL = 8
COMPARED = 32
LOSS = "error of the velocity"
TURBO, EMOJI = "emoji-turbo, CFG 1", f"emoji, CFG {CFG:g}"
AGAINST_ITSELF = [(2, 8), (3, 8), (4, 8), (5, 8), (6, 8), (7, 8), (2, 4), (3, 4)]
AGAINST_TEACHER = [(TURBO, 8), (TURBO, 4), (TURBO, 2), (EMOJI, 8), (EMOJI, 4)]
ROWS = [(EMOJI, STEPS), *AGAINST_TEACHER]


class Drawn:
    """Samples of both models for the same prompts and seeds, each drawn once."""

    def __init__(self, models: Mapping[str, EmojiPipeline], prompts: list[str]) -> None:
        self._models, self._prompts = models, prompts
        self._samples: dict[tuple[str, int], torch.Tensor] = {}

    def __call__(self, model: str, steps: int) -> torch.Tensor:
        if (model, steps) not in self._samples:
            cfg = 1.0 if model == TURBO else CFG
            found = sample(self._models[model], self._prompts, steps, cfg)
            self._samples[model, steps] = found
        return self._samples[model, steps]


def closeness(samples: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """PSNR in dB over the pictures: mean, 10th percentile, minimum."""
    errors = (samples - reference).square().mean((1, 2, 3))
    found = np.array([psnr(error) for error in errors.tolist()])
    figures = {"mean": found.mean(), "p10": np.percentile(found, 10), "min": found.min()}
    return {name: round(float(figure), 2) for name, figure in figures.items()}


def comparisons(drawn: Drawn) -> dict[str, list[dict[str, str | int | float]]]:
    """Compares turbo with its own full run, and both models with the emoji model's full run."""
    own = [
        {"steps": steps, "against": full, **closeness(drawn(TURBO, steps), drawn(TURBO, full))}
        for steps, full in AGAINST_ITSELF
    ]
    teacher = [
        {"model": model, "steps": steps, **closeness(drawn(model, steps), drawn(EMOJI, STEPS))}
        for model, steps in AGAINST_TEACHER
    ]
    return {"fewer_plain_steps": own, f"against_emoji_at_{STEPS}_steps": teacher}


def evaluate(folder: Path) -> None:
    models = {TURBO: turbo.load(folder), EMOJI: image.load(TEACHER)}
    prompts, training = models[TURBO].prompts("test"), data.load()
    found = {
        steps: nearest(sample(models[TURBO], prompts, steps, 1.0), training) for steps in (8, 4, 2)
    }
    hits = {
        steps: sum(p == best["nearest"] for p, best in zip(prompts, samples, strict=True))
        for steps, samples in found.items()
    }
    report = exporting.evaluation_of(folder, prompts, found[FULL], {"steps": FULL, "cfg": 1.0})
    samples = report.pop("samples")
    report["hits_by_steps"] = hits
    tables = comparisons(Drawn(models, prompts[: 3 * COMPARED : 3]))
    report |= {"compared_prompts": COMPARED, "psnr": tables, "samples": samples}
    demo = models[TURBO].prompts("demo")
    drawn = Drawn(models, demo)
    captions = [f"{prompt}, {model.partition(',')[0]} {n}" for model, n in ROWS for prompt in demo]
    picture = grid(torch.cat([drawn(*row) for row in ROWS]), captions)
    log = HERE / "training_log.jsonl"
    write(folder, report, picture, log, loss_curve(read_log(log), LOSS))
    print(f"nearest training image is the prompted one, of {len(prompts)}, by steps: {hits}")
    for name, rows in tables.items():
        print(name, *rows, sep="\n  ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    torch.set_num_threads(1)  # the fastest for a model of this size
    evaluate(**vars(parser.parse_args()))
