"""Writes models/emoji from a training checkpoint.

    python -m tools.train_emoji.export --date 2026-01-31

The file holds only the averaged weights, as bfloat16 with diffusers' names, so that diffusers and
ComfyUI load it without unused keys. Word embeddings, prompts and splits go into emoji.json.
"""

import argparse
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save

from magcache.emoji.keywords import WEIGHTS
from tools import exporting
from tools.train_emoji import data
from tools.train_emoji.model import CONFIG
from tools.train_emoji.train import CHECKPOINT, LOG, vocabulary_of

FOLDER = exporting.MODELS / "emoji"
DEMO = [
    "fox face", "panda face", "penguin", "tropical fish",
    "sunflower", "strawberry", "hamburger", "smiling face sunglasses",
]  # fmt: skip
TEST_PROMPTS = 96


def export(checkpoint: Path, folder: Path, date: str) -> None:
    """Writes the three files; raises ValueError if the weights take more than 16 MB."""
    saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
    average = saved["average"]
    words = average.pop("words.weight")
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**CONFIG)
    weights = {name.removeprefix("transformer."): w.bfloat16() for name, w in average.items()}
    transformer.load_state_dict(weights, assign=True)
    content = save(weights, metadata={"format": "pt"})
    emoji = data.load()
    description = exporting.description_of(
        words,
        vocabulary_of(emoji),
        emoji.prompts,
        exporting.splits_of(emoji.prompts, DEMO, TEST_PROMPTS),
        exporting.training_of(LOG, saved["step"], date),
    )
    config = transformer.to_json_string()
    exporting.write_model(folder, (WEIGHTS["emoji"], content), config, description)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--date", required=True, help="date of the training run, YYYY-MM-DD")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    export(**vars(parser.parse_args()))
