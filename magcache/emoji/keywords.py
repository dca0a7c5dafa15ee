"""What the small trained models have in common: their files, and prompts of a few keywords.

In place of a text encoder there is a table of word embeddings. A prompt is a bag of up to eight
words; word 0 is the padding, and a prompt of nothing else is the unconditional one.
"""

import base64
import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

FORMAT = 1
TEXT_TOKENS = 8
WAN_WIDTH = 4096  # of Wan's text; a word's 128 numbers come first, the others are zero
DESCRIPTION = "emoji.json"
WEIGHTS = {
    "emoji": "diffusion_pytorch_model.safetensors",
    "emoji-video": "wan2.1_emoji_video.safetensors",  # under Wan's own names, as ComfyUI reads them
    "emoji-turbo": "diffusion_pytorch_model.safetensors",
    "emoji-unet": "diffusion_pytorch_model.safetensors",
}
"""Each model's file, by the name of its folder."""


@dataclass(frozen=True)
class Keywords:
    """The words of a model.

    Attributes:
        vocabulary: Its words.
        table: Their embeddings, (words, 128).
        splits: Fixed sets of prompts.
    """

    vocabulary: list[str]
    table: torch.Tensor
    splits: dict[str, list[str]]

    def prompts(self, split: str) -> list[str]:
        """The prompts of "calibration", "test", "demo" or "other"; no prompt is in two.

        Raises ValueError for any other split.
        """
        if split not in self.splits:
            raise ValueError(f"unknown split {split!r}: choose one of {', '.join(self.splits)}")
        return list(self.splits[split])

    def embed(self, prompts: Sequence[str], width: int = 128) -> torch.Tensor:
        """Token embeddings (B, 8, width).

        Raises ValueError for a word that the model has not learnt, and for more than eight words.
        """
        embeds = self.table[torch.tensor([self._word_indices(prompt) for prompt in prompts])]
        return F.pad(embeds, (0, width - embeds.shape[-1]))

    def understood(self, text: str) -> tuple[str, str]:
        """A prompt of the words in a text that the model knows, and a note on those left out.

        Raises ValueError where it knows none of them.
        """
        words = re.findall(r"[a-z]+", text.lower())
        known = [word for word in words if word in self.vocabulary]
        unknown = [self._asked_about(word) for word in dict.fromkeys(words) if word not in known]
        note = f"the emoji model does not know: {', '.join(unknown)}" if unknown else ""
        if words and not known:
            raise ValueError(f"{note}. Try fox face")
        if len(known) > TEXT_TOKENS:
            left_out = ", ".join(known[TEXT_TOKENS:])
            note = "; ".join(filter(None, [note, f"it reads {TEXT_TOKENS} words, not {left_out}"]))
        return " ".join(known[:TEXT_TOKENS]), note

    def _asked_about(self, word: str) -> str:
        near = difflib.get_close_matches(word, self.vocabulary, n=1, cutoff=0.8)
        return f"{word} (did you mean {near[0]}?)" if near else word

    def _word_indices(self, prompt: str) -> list[int]:
        words = prompt.lower().split()
        if len(words) > TEXT_TOKENS:
            raise ValueError(
                f"{prompt!r} has {len(words)} words, the model reads at most {TEXT_TOKENS}"
            )
        for word in words:
            if word not in self.vocabulary:
                near = difflib.get_close_matches(word, self.vocabulary)
                hint = f"did you mean {' or '.join(near)}?" if near else "none is near it"
                raise ValueError(f"the emoji model does not know the word {word!r}: {hint}")
        indices = [self.vocabulary.index(word) for word in words]
        return indices + [0] * (TEXT_TOKENS - len(indices))


def find_folder(name: str) -> Path:
    """The folder of a model, one of `WEIGHTS`, in an installed package or in a checkout.

    Raises FileNotFoundError with the places that were looked at, and where to get it: the wheel
    brings "emoji" only.
    """
    package = Path(__file__).parents[1]
    places = [package / "models" / name, package.parent / "models" / name]
    for place in places:
        if (place / DESCRIPTION).exists() and (place / WEIGHTS[name]).exists():
            return place
    raise FileNotFoundError(
        f"the model {name} is neither in {places[0]} nor in {places[1]}. The wheel brings only the "
        f"model emoji; MagCache's repository and its source archive (sdist) have models/{name}: "
        f"copy it to one of these places, or in a checkout run `git checkout models/{name}`"
    )


def read(folder: Path) -> Keywords:
    """Reads the description of a model; raises ValueError if it is of a newer format."""
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if description["format"] != FORMAT:
        raise ValueError(
            f"{folder / DESCRIPTION} has format {description['format']}, this version of "
            f"MagCache reads {FORMAT}: update MagCache"
        )
    return Keywords(
        vocabulary=description["vocabulary"],
        table=_table_of(description["embedding"]),
        splits=_splits_of(description),
    )


def _table_of(embedding: dict[str, Any]) -> torch.Tensor:
    values = np.frombuffer(base64.b64decode(embedding["base64"]), dtype="<f2")
    return torch.from_numpy(values.reshape(embedding["shape"]).astype(np.float32))


def _splits_of(description: dict[str, Any]) -> dict[str, list[str]]:
    splits = description["splits"]
    listed = {prompt for prompts in splits.values() for prompt in prompts}
    return {**splits, "other": [p for p in description["prompts"] if p not in listed]}
