"""Writes models/emoji from a training checkpoint.

    python -m tools.train_emoji.export --date 2026-01-31

The averaged weights as bfloat16 under diffusers' names, and nothing else, so that diffusers and
ComfyUI load the same file without a left-over key; the word embeddings, the prompts and their
splits go into emoji.json.
"""

import argparse
import base64
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save

from magcache.emoji import DESCRIPTION, FORMAT, WEIGHTS
from tools.train_emoji import data
from tools.train_emoji.model import CONFIG
from tools.train_emoji.train import CHECKPOINT, LOG, vocabulary_of

FOLDER = Path(__file__).parents[2] / "models" / "emoji"
MOST_BYTES = 16_000_000
DEMO = [
    "fox face", "panda face", "penguin", "tropical fish",
    "sunflower", "strawberry", "hamburger", "smiling face sunglasses",
]  # fmt: skip
TEST_PROMPTS = 96
CALIBRATION_PROMPTS = 8
CHANNELS = (
    "latent channel 4c + 2r + k is colour c (red, green, blue) in [-1, 1] of pixel (r, k) in "
    "each block of 2x2 pixels; channels 12 to 15 are zero"
)


def splits_of(prompts: list[str]) -> dict[str, list[str]]:
    """Disjoint fixed sets, each spread evenly over the categories, in which prompts are sorted."""
    left = [prompt for prompt in prompts if prompt not in DEMO]
    test = evenly(left, TEST_PROMPTS)
    left = [prompt for prompt in left if prompt not in test]
    return {"calibration": evenly(left, CALIBRATION_PROMPTS), "test": test, "demo": DEMO}


def evenly(items: list[str], count: int) -> list[str]:
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def read_log(path: Path = LOG) -> dict[int, float]:
    """Mean loss by step; a stretch that was trained again after a stop counts once."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["step"]: line["loss"] for line in sorted(lines, key=lambda line: line["step"])}


def replace(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".new")
    scratch.write_bytes(content)
    scratch.replace(path)


def description_of(words: torch.Tensor, step: int, date: str) -> dict[str, Any]:
    """What emoji.json holds; `words` (V, 128) are the embeddings, `step` the last trained one."""
    emoji = data.load()
    losses = [loss for at, loss in read_log().items() if at <= step][-10:]
    return {
        "format": FORMAT,
        "channels": CHANNELS,
        "training": {"steps": step, "loss": round(sum(losses) / len(losses), 5), "date": date},
        "splits": splits_of(emoji.prompts),
        "prompts": emoji.prompts,
        "vocabulary": vocabulary_of(emoji),
        "embedding": {
            "dtype": "float16",
            "shape": list(words.shape),
            "base64": base64.b64encode(words.half().numpy().tobytes()).decode(),
        },
    }


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
    if len(content) > MOST_BYTES:
        raise ValueError(f"the weights take {len(content)} bytes, more than {MOST_BYTES}")
    description = description_of(words, saved["step"], date)
    replace(folder / WEIGHTS, content)
    replace(folder / "config.json", transformer.to_json_string().encode())
    text = json.dumps(description, indent=1)
    replace(folder / DESCRIPTION, text.encode())
    print(f"{folder}: step {saved['step']}, {len(content)} bytes of weights, {len(text)} of JSON")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--date", required=True, help="the day of the training run, YYYY-MM-DD")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    export(**vars(parser.parse_args()))
