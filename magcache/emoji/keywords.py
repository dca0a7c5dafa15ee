"""The files and the keyword prompts that all small trained models share.

A table of word embeddings replaces the text encoder. A prompt is a bag of up to eight words. Word
0 is padding; a prompt of padding alone is the unconditional one.
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
WAN_WIDTH = 4096  # channels of Wan's text; the first 128 hold a word's embedding, the rest is 0
DESCRIPTION = "emoji.json"
WEIGHTS = {
    "emoji": "diffusion_pytorch_model.safetensors",
    "emoji-video": "wan2.1_emoji_video.safetensors",  # with Wan's parameter names, for ComfyUI
    "emoji-turbo": "diffusion_pytorch_model.safetensors",
    "emoji-unet": "diffusion_pytorch_model.safetensors",
}
"""The weights file of each model, by the name of its folder."""


@dataclass(frozen=True)
class Keywords:
    """The words of a model.

    Attributes:
        vocabulary: The words that it knows.
        table: Their embeddings, (words, 128).
        splits: Named, fixed sets of prompts.
    """

    vocabulary: list[str]
    table: torch.Tensor
    splits: dict[str, list[str]]

    def prompts(self, split: str) -> list[str]:
        """The prompts of "calibration", "test", "demo" or "other"; the sets are disjoint.

        Raises ValueError for any other split.
        """
        if split not in self.splits:
            raise ValueError(f"unknown split {split!r}: choose one of {', '.join(self.splits)}")
        return list(self.splits[split])

    def embed(self, prompts: Sequence[str], width: int = 128) -> torch.Tensor:
        """Token embeddings (B, 8, width).

        Raises ValueError for a word that the model does not know, and for more than eight words.
        """
        embeds = self.table[torch.tensor([self._word_indices(prompt) for prompt in prompts])]
        return F.pad(embeds, (0, width - embeds.shape[-1]))

    def understood(self, text: str) -> tuple[str, str]:
        """A prompt of the known words in a text, and a note on the ignored ones.

        Raises ValueError if the model knows none of the words.
        """
        words = re.findall(r"[a-z]+", text.lower())
        known = [word for word in words if word in self.vocabulary]
        unknown = [self._asked_about(word) for word in dict.fromkeys(words) if word not in known]
        note = f"the emoji model does not know: {', '.join(unknown)}" if unknown else ""
        if words and not known:
            raise ValueError(f"{note}. Try fox face")
        if len(known) > TEXT_TOKENS:
            left_out = ", ".join(known[TEXT_TOKENS:])
            most = f"it reads at most {TEXT_TOKENS} words, so it ignored {left_out}"
            note = "; ".join(filter(None, [note, most]))
        return " ".join(known[:TEXT_TOKENS]), note

    def _asked_about(self, word: str) -> str:
        near = difflib.get_close_matches(word, self.vocabulary, n=1, cutoff=0.8)
        return f"{word} (did you mean {near[0]}?)" if near else word

    def _word_indices(self, prompt: str) -> list[int]:
        words = prompt.lower().split()
        if len(words) > TEXT_TOKENS:
            raise ValueError(
                f"{prompt!r} has {len(words)} words, but the model reads at most {TEXT_TOKENS}"
            )
        for word in words:
            if word not in self.vocabulary:
                near = difflib.get_close_matches(word, self.vocabulary)
                hint = f"did you mean {' or '.join(near)}?" if near else "no known word is similar"
                raise ValueError(f"the emoji model does not know the word {word!r}: {hint}")
        indices = [self.vocabulary.index(word) for word in words]
        return indices + [0] * (TEXT_TOKENS - len(indices))


def find_folder(name: str) -> Path:
    """The folder of a model (a key of `WEIGHTS`), in an installed package or a checkout.

    Raises FileNotFoundError, which says where it looked and where to get the model: the wheel
    contains "emoji" and "emoji-video" only.
    """
    package = Path(__file__).parents[1]
    places = [package / "models" / name, package.parent / "models" / name]
    for place in places:
        if (place / DESCRIPTION).exists() and (place / WEIGHTS[name]).exists():
            return place
    raise FileNotFoundError(
        f"the model {name} is neither in {places[0]} nor in {places[1]}. MagCache's wheel contains "
        f"only emoji and emoji-video. Copy models/{name} from the repository or the source archive "
        f"(sdist) to one of these folders, or run `git checkout models/{name}` in a checkout"
    )


def read(folder: Path) -> Keywords:
    """Reads the description of a model. Raises ValueError if its format is newer."""
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if description["format"] != FORMAT:
        raise ValueError(
            f"{folder / DESCRIPTION} has format {description['format']}, but this MagCache reads "
            f"{FORMAT}: update MagCache"
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
