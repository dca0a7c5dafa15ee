"""The training set: emoji artwork of two vendors as 32x32 RGB, with keyword prompts.

The artwork comes from two npm packages and is not committed. NOTICE names its licences. Run
`python -m tools.train_emoji.data` to download and unpack it next to this file.
"""

import json
import re
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ARTWORK = Path(__file__).parent / "artwork"
VENDORS = {
    "noto": ("emoji-datasource-google@16.0.0", "google"),
    "twemoji": ("emoji-datasource-twitter@16.0.0", "twitter"),
}
SUBCATEGORIES = (
    "animal-bird", "animal-bug", "animal-mammal", "animal-marine", "animal-reptile",
    "animal-amphibian", "plant-flower", "food-fruit", "food-vegetable", "food-prepared",
    "food-sweet", "face-smiling", "face-costume", "face-glasses", "cat-face", "heart",
)  # fmt: skip
FILLER = {"with", "and", "of", "the", "a", "in", "on", "for", "symbol", "sign", "emoji"}
MAX_WORDS = 7  # leaves one of the eight text tokens for the vendor
SIZE = 32


@dataclass(frozen=True)
class EmojiSet:
    """`images` (vendors, prompts, 3, 32, 32) in [-1, 1]; `prompts` in the same order."""

    images: torch.Tensor
    prompts: list[str]
    vendors: list[str]


def download(folder: Path = ARTWORK) -> None:
    """Fetches the packages with `npm pack` and keeps the files that training needs."""
    folder.mkdir(parents=True, exist_ok=True)
    for vendor, (package, image_dir) in VENDORS.items():
        if (folder / vendor / "emoji.json").exists():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            command = ["npm", "pack", package, "--silent", "--pack-destination", scratch]
            subprocess.run(command, check=True)
            with tarfile.open(next(Path(scratch).glob("*.tgz"))) as archive:
                archive.extractall(scratch, filter="data")
            package_dir = Path(scratch) / "package"
            (folder / vendor).mkdir(exist_ok=True)
            (package_dir / "img" / image_dir / "64").rename(folder / vendor / "64")
            (package_dir / "emoji.json").rename(folder / vendor / "emoji.json")


def prompt_of(name: str) -> str:
    """Keywords from an emoji's name: lower case, no filler words, at most seven."""
    words = [w for w in re.findall(r"[a-z0-9]+", name.lower()) if w not in FILLER]
    return " ".join(dict.fromkeys(words[:MAX_WORDS]))


def choose(folder: Path = ARTWORK) -> list[tuple[str, str]]:
    """Prompt and file name of each chosen emoji.

    Raises FileNotFoundError if the artwork is missing; the message says what to run.
    """
    index = folder / "noto" / "emoji.json"
    if not index.exists():
        raise FileNotFoundError(f"{index} is missing: run `python -m tools.train_emoji.data`")
    entries = {}
    for entry in json.loads(index.read_text()):
        drawn = entry["has_img_google"] and entry["has_img_twitter"]
        if drawn and entry["subcategory"] in SUBCATEGORIES:
            # The text encoder sees a bag of words, so the bag must be unique.
            bag = frozenset(prompt_of(entry["name"]).split())
            entries.setdefault(bag, entry)
    chosen = sorted(entries.values(), key=lambda e: e["sort_order"])
    return [(prompt_of(entry["name"]), entry["image"]) for entry in chosen]


def load(folder: Path = ARTWORK) -> EmojiSet:
    """Reads the artwork of every vendor, on a white background."""
    chosen = choose(folder)
    images = [[_image(folder / v / "64" / name) for _, name in chosen] for v in VENDORS]
    return EmojiSet(
        images=torch.from_numpy(np.array(images)).permute(0, 1, 4, 2, 3).float() / 127.5 - 1,
        prompts=[prompt for prompt, _ in chosen],
        vendors=list(VENDORS),
    )


def _image(path: Path) -> np.ndarray:
    art = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", art.size, "white")
    flat = Image.alpha_composite(white, art).convert("RGB")
    return np.asarray(flat.resize((SIZE, SIZE), Image.Resampling.BOX))


if __name__ == "__main__":
    download()
