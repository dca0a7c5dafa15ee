"""Trains the emoji model.

python -m tools.train_emoji.data
python -m tools.train_emoji.train --steps 4000 --cooldown 1000
"""

import argparse
from pathlib import Path

import torch

from tools import training
from tools.train_emoji import data
from tools.train_emoji.model import TEXT_TOKENS, EmojiModel, to_patches

HERE = Path(__file__).parent
CHECKPOINT = HERE / "checkpoint.pt"
LOG = HERE / "training_log.jsonl"
DROP_PROMPT = 0.1
DROP_VENDOR = 0.5


def vocabulary_of(emoji: data.EmojiSet) -> list[str]:
    """Padding first, then vendors, then words in alphabetical order."""
    words = {word for prompt in emoji.prompts for word in prompt.split()}
    return ["", *emoji.vendors, *sorted(words)]


class Batches:
    """Random batches of patches and word indices."""

    def __init__(self, emoji: data.EmojiSet, size: int) -> None:
        vocabulary = vocabulary_of(emoji)
        self.size = size
        self.patches = torch.stack([to_patches(images) for images in emoji.images])
        self.words = torch.zeros(len(emoji.prompts), TEXT_TOKENS - 1, dtype=torch.long)
        for row, prompt in zip(self.words, emoji.prompts, strict=True):
            for column, word in enumerate(prompt.split()):
                row[column] = vocabulary.index(word)
        self.vendor_words = torch.tensor([vocabulary.index(v) for v in emoji.vendors])

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        vendor = torch.randint(len(self.vendor_words), (self.size,))
        prompt = torch.randint(len(self.words), (self.size,))
        vendor_word = self.vendor_words[vendor] * (torch.rand(self.size) > DROP_VENDOR)
        words = torch.cat([self.words[prompt], vendor_word[:, None]], 1)
        words[torch.rand(self.size) < DROP_PROMPT] = 0
        return self.patches[vendor, prompt], words


def train(steps: int, cooldown: int, batch: int, lr: float) -> None:
    emoji = data.load()
    batches = Batches(emoji, batch)
    model = EmojiModel(len(vocabulary_of(emoji)))

    def draw_loss() -> torch.Tensor:
        clean, words = batches.draw()
        return training.flow_matching_loss(lambda x, sigma: model(x, words, sigma), clean)

    training.train(model, draw_loss, HERE, steps=steps, cooldown=cooldown, batch=batch, lr=lr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, required=True, help="total, resumed ones included")
    parser.add_argument("--cooldown", type=int, default=1000, help="last steps at falling rate")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    train(**vars(parser.parse_args()))
