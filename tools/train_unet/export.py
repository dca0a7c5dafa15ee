"""Writes models/emoji-unet from a training checkpoint.

    python -m tools.train_unet.export --date 2026-01-31

The file holds the averaged weights as float16 with diffusers' names, which both hosts read. Word
embeddings, prompts and splits go into emoji.json.
"""

import argparse
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save

from magcache.emoji.keywords import WEIGHTS
from magcache.emoji.unet import LATENT_MEAN, LATENT_STD
from tools import exporting
from tools.train_emoji import data
from tools.train_emoji.export import DEMO, TEST_PROMPTS
from tools.train_emoji.train import vocabulary_of
from tools.train_unet.model import CONFIG

HERE = Path(__file__).parent
FOLDER = exporting.MODELS / "emoji-unet"
CHANNELS = (
    "latent channels 0 to 3 are red, green and blue on white, and alpha, of one pixel each: "
    f"(c - m) / s, c in [-1, 1], m {list(LATENT_MEAN)}, s {list(LATENT_STD)}"
)


def export(checkpoint: Path, folder: Path, date: str) -> None:
    """Writes the three files."""
    saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
    average = saved["average"]
    words = average.pop("words.weight")
    with torch.device("meta"):
        unet = UNet2DConditionModel(**CONFIG)
    weights = {name.removeprefix("unet."): w.half().contiguous() for name, w in average.items()}
    unet.load_state_dict(weights, assign=True)
    content = save(weights, metadata={"format": "pt"})
    emoji = data.load()
    description = exporting.description_of(
        words,
        vocabulary_of(emoji),
        emoji.prompts,
        exporting.splits_of(emoji.prompts, DEMO, TEST_PROMPTS),
        exporting.training_of(HERE / "training_log.jsonl", saved["step"], date),
    )
    description["channels"] = CHANNELS
    config = unet.to_json_string()
    exporting.write_model(folder, (WEIGHTS["emoji-unet"], content), config, description)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--date", required=True, help="date of the training run, YYYY-MM-DD")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "checkpoint.pt")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    export(**vars(parser.parse_args()))
