"""Writes models/emoji-video from a training checkpoint.

    python -m tools.train_video.export --date 2026-01-31

The file holds the averaged weights as bfloat16 with Wan's names, which ComfyUI's loader and
diffusers' `from_single_file` both read. Word embeddings, prompts and splits go into emoji.json.
"""

import argparse
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save

from magcache.emoji.keywords import WEIGHTS
from tools import exporting
from tools.train_video import data
from tools.train_video.model import CONFIG
from tools.train_video.train import HERE, vocabulary_of

FOLDER = exporting.MODELS / "emoji-video"
DEMO = [
    "rabbit face",
    "octopus",
    "penguin",
    "beating heart",
    "rocket",
    "ghost",
    "snail",
    "umbrella",
]
TEST_PROMPTS = 96
NAMES = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("proj_out", "head.head"),
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    ("to_out.0", "o"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("norm2", "norm3"),  # the norm before cross-attention, the only one with weights
    ("scale_shift_table", "modulation"),
)
"""Parts of parameter names in diffusers and in Wan."""


def wan_name(name: str) -> str:
    """A parameter's name in Wan, from its name in diffusers."""
    if name == "scale_shift_table":
        return "head.modulation"
    for diffusers_name, own in NAMES:
        name = name.replace(diffusers_name, own)
    return name


def export(checkpoint: Path, folder: Path, date: str) -> None:
    """Writes the three files; raises ValueError if the weights take more than 16 MB."""
    saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
    average = saved["average"]
    words = average.pop("words.weight")
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**CONFIG)
    weights = {name.removeprefix("transformer."): w.bfloat16() for name, w in average.items()}
    transformer.load_state_dict(weights, assign=True)
    content = save({wan_name(name): w for name, w in weights.items()}, metadata={"format": "pt"})
    prompts = data.load().prompts
    description = exporting.description_of(
        words,
        vocabulary_of(prompts),
        prompts,
        exporting.splits_of(prompts, DEMO, TEST_PROMPTS),
        exporting.training_of(HERE / "training_log.jsonl", saved["step"], date),
    )
    config = transformer.to_json_string()
    exporting.write_model(folder, (WEIGHTS["emoji-video"], content), config, description)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--date", required=True, help="date of the training run, YYYY-MM-DD")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "checkpoint.pt")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    export(**vars(parser.parse_args()))
