"""The training set: animated emoji as 32x32 RGB loops, with keyword prompts.

The artwork comes from four npm packages, 730 MB in all, and is not committed. NOTICE names its
licence. Run `python -m tools.train_video.data` to download it and keep the small loops next to this
file.
"""

import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tools.train_emoji import data as emoji

ARTWORK = Path(__file__).parent / "artwork"
LOOPS = ARTWORK / "loops.npz"
PACKAGES = tuple(f"@lobehub/fluent-emoji-anim-{part}@1.0.0" for part in (1, 2, 3, 4))
SUBCATEGORIES = (
    "animal-mammal", "animal-bird", "animal-bug", "animal-marine", "animal-reptile",
    "animal-amphibian", "monkey-face", "face-costume", "heart", "sky & weather", "transport-air",
)  # fmt: skip
LEAST_MOTION = 0.015  # mean absolute difference from the loop's mean image, colours in [0, 1]
SIZE = 32
FRAMES = 8
PHASES = 24  # frames kept of each loop; a clip uses every third


@dataclass(frozen=True)
class Loops:
    """`frames` (prompts, 24, 3, 32, 32) in [-1, 1]; `prompts` in the same order."""

    frames: torch.Tensor
    prompts: list[str]

    def clip(self, prompt: int, phase: int) -> torch.Tensor:
        """Eight frames (3, 8, 32, 32) of one pass of the loop, starting at frame `phase`."""
        places = (phase + torch.arange(FRAMES) * (PHASES // FRAMES)) % PHASES
        return self.frames[prompt, places].transpose(0, 1)


def download(path: Path = LOOPS) -> None:
    """Fetches the packages with `npm pack` and saves the chosen loops at 32x32 in one file."""
    index = json.loads((emoji.ARTWORK / "noto" / "emoji.json").read_text())
    entries = {entry["unified"].lower(): entry for entry in index}
    kept: dict[frozenset[str], tuple[int, str, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for package in PACKAGES:
            command = ["npm", "pack", package, "--silent", "--pack-destination", scratch]
            subprocess.run(command, check=True)
        for archive in Path(scratch).glob("*.tgz"):
            with tarfile.open(archive) as files:
                for file in files:
                    entry = entries.get(Path(file.name).stem)
                    if entry is None or entry["subcategory"] not in SUBCATEGORIES:
                        continue
                    loop = _loop(Image.open(files.extractfile(file)))  # pyright: ignore
                    prompt = emoji.prompt_of(entry["name"])
                    bag = frozenset(prompt.split())
                    place = entry["sort_order"]
                    if loop is not None and (bag not in kept or place < kept[bag][0]):
                        kept[bag] = place, prompt, loop
    chosen = sorted(kept.values(), key=lambda item: item[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path, frames=np.stack([c[2] for c in chosen]), prompts=[c[1] for c in chosen]
    )
    print(f"{path}: {len(chosen)} loops")


def load(path: Path = LOOPS) -> Loops:
    """Reads the loops.

    Raises FileNotFoundError if they are missing; the message says what to run.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: run `python -m tools.train_emoji.data`, which has the names of "
            "the emoji, and `python -m tools.train_video.data`"
        )
    with np.load(path) as stored:
        frames = torch.from_numpy(stored["frames"]).movedim(-1, -3).float() / 127.5 - 1
        return Loops(frames, stored["prompts"].tolist())


def _loop(animation: Image.Image) -> np.ndarray | None:
    """(24, 32, 32, 3) bytes, evenly spaced over the loop; None if it hardly moves."""
    count = getattr(animation, "n_frames", 1)
    if count < PHASES:
        return None
    frames = []
    for number in range(PHASES):
        animation.seek(round(number * count / PHASES))
        art = animation.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", art.size, "white"), art).convert("RGB")
        frames.append(np.asarray(flat.resize((SIZE, SIZE), Image.Resampling.BOX)))
    loop = np.stack(frames)
    motion = np.abs(loop / 255 - loop.mean(0) / 255).mean()
    return loop if motion >= LEAST_MOTION else None


if __name__ == "__main__":
    download()
