"""Writes the files of the small models: weights, splits of the prompts, words, losses."""

import base64
import json
from pathlib import Path
from typing import Any

import torch

from magcache.emoji.keywords import DESCRIPTION, FORMAT

MODELS = Path(__file__).parents[1] / "models"
MOST_BYTES = 16_000_000
CALIBRATION_PROMPTS = 8
CHANNELS = (
    "latent channel 4c + 2r + k is colour c (red, green, blue) in [-1, 1] of pixel (r, k) in "
    "each block of 2x2 pixels; channels 12 to 15 are zero"
)


def splits_of(prompts: list[str], demo: list[str], test: int) -> dict[str, list[str]]:
    """Disjoint fixed sets of prompts, each spread evenly over the categories.

    Args:
        prompts: All prompts, sorted by category.
        demo: The set "demo".
        test: The size of the set "test".
    """
    left = [prompt for prompt in prompts if prompt not in demo]
    tested = evenly(left, test)
    left = [prompt for prompt in left if prompt not in tested]
    return {"calibration": evenly(left, CALIBRATION_PROMPTS), "test": tested, "demo": demo}


def evenly(items: list[str], count: int) -> list[str]:
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def read_log(path: Path) -> dict[int, float]:
    """Mean loss by step. Steps that were repeated after an interruption count once."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["step"]: line["loss"] for line in sorted(lines, key=lambda line: line["step"])}


def replace(path: Path, content: bytes) -> None:
    """Writes a file atomically: a reader sees the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".new")
    scratch.write_bytes(content)
    scratch.replace(path)


def write_model(
    folder: Path, weights: tuple[str, bytes], config: str, description: dict[str, Any]
) -> None:
    """Writes weights (name and content), config.json and emoji.json.

    Raises ValueError if the weights take more than 16 MB.
    """
    name, content = weights
    if len(content) > MOST_BYTES:
        raise ValueError(f"the weights take {len(content)} bytes, more than {MOST_BYTES}")
    replace(folder / name, content)
    replace(folder / "config.json", config.encode())
    replace(folder / DESCRIPTION, json.dumps(description, indent=1).encode())
    step = description["training"]["steps"]
    print(f"{folder}: step {step}, {len(content)} bytes of weights")


def evaluation_of(
    folder: Path,
    prompts: list[str],
    found: list[dict[str, str | float]],
    made_with: dict[str, Any],
) -> dict[str, Any]:
    """The content of evaluation.json, with the nearest training example of each sample."""
    training = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["training"]
    samples = [
        {"prompt": prompt, "seed": seed, "hit": prompt == best["nearest"], **best}
        for seed, (prompt, best) in enumerate(zip(prompts, found, strict=True))
    ]
    fraction = sum(sample["hit"] for sample in samples) / len(samples)
    made_with = {**made_with, "training": training}
    return {"fraction": fraction, "prompts": len(prompts), **made_with, "samples": samples}


def description_of(
    words: torch.Tensor,
    vocabulary: list[str],
    prompts: list[str],
    splits: dict[str, list[str]],
    training: dict[str, Any],
) -> dict[str, Any]:
    """The content of emoji.json; `words` (V, 128) are the embeddings of the vocabulary."""
    return {
        "format": FORMAT,
        "channels": CHANNELS,
        "training": training,
        "splits": splits,
        "prompts": prompts,
        "vocabulary": vocabulary,
        "embedding": {
            "dtype": "float16",
            "shape": list(words.shape),
            "base64": base64.b64encode(words.half().numpy().tobytes()).decode(),
        },
    }


def training_of(log: Path, step: int, date: str) -> dict[str, Any]:
    """The record of a training run: its last step, the mean loss of the last 500, its date."""
    losses = [loss for at, loss in read_log(log).items() if at <= step][-10:]
    return {"steps": step, "loss": round(sum(losses) / len(losses), 5), "date": date}
