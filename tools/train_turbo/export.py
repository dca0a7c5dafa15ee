"""Writes models/emoji-turbo from a training checkpoint.

    python -m tools.train_turbo.export --date 2026-01-31

Works like `tools.train_emoji.export`, but stores matrices in eight bits (float8_e4m3fn), a common
format of FLUX, which halves the file. Both hosts can load them in any dtype. The words are those of
the emoji model.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save

from magcache.emoji.keywords import DESCRIPTION, WEIGHTS
from tools import exporting
from tools.train_emoji.model import CONFIG
from tools.train_turbo.train import TEACHER

HERE = Path(__file__).parent
FOLDER = exporting.MODELS / "emoji-turbo"


def export(checkpoint: Path, folder: Path, date: str) -> None:
    """Writes the three files."""
    saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**CONFIG)
    weights = {
        name.removeprefix("transformer."): w.to(
            torch.float8_e4m3fn if w.ndim == 2 else torch.bfloat16
        )
        for name, w in saved["average"].items()
        if name != "words.weight"
    }
    transformer.load_state_dict(weights, assign=True)
    description = json.loads((TEACHER / DESCRIPTION).read_text())
    description["training"] = exporting.training_of(
        HERE / "training_log.jsonl", saved["step"], date
    )
    content = save(weights, metadata={"format": "pt"})
    config = transformer.to_json_string()
    exporting.write_model(folder, (WEIGHTS["emoji-turbo"], content), config, description)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--date", required=True, help="date of the training run, YYYY-MM-DD")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "checkpoint.pt")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    export(**vars(parser.parse_args()))
