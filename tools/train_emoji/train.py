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
    """Draws random pictures by their place in the set, with the indices of their words."""

    def __init__(self, emoji: data.EmojiSet, size: int, device: torch.device | str = "cpu") -> None:
        vocabulary = vocabulary_of(emoji)
        self.size, self.device = size, device
        words = torch.zeros(len(emoji.prompts), TEXT_TOKENS - 1, dtype=torch.long)
        for row, prompt in zip(words, emoji.prompts, strict=True):
            for column, word in enumerate(prompt.split()):
                row[column] = vocabulary.index(word)
        self.words = words.to(device)
        self.vendor_words = torch.tensor([vocabulary.index(v) for v in emoji.vendors]).to(device)

    def draw(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Vendors (B,), prompts (B,) and words (B, 8); some without vendor, some only padding."""
        vendor = torch.randint(len(self.vendor_words), (self.size,), device=self.device)
        prompt = torch.randint(len(self.words), (self.size,), device=self.device)
        named = torch.rand(self.size, device=self.device) > DROP_VENDOR
        words = torch.cat([self.words[prompt], (self.vendor_words[vendor] * named)[:, None]], 1)
        dropped = torch.rand(self.size, device=self.device) < DROP_PROMPT
        return vendor, prompt, words * ~dropped[:, None]


def train(steps: int, cooldown: int, batch: int, lr: float) -> None:
    emoji = data.load()
    batches = Batches(emoji, batch)
    patches = torch.stack([to_patches(images) for images in emoji.images])
    model = EmojiModel(len(vocabulary_of(emoji)))

    def draw_loss() -> torch.Tensor:
        vendor, prompt, words = batches.draw()
        return training.flow_matching_loss(
            lambda x, sigma: model(x, words, sigma), patches[vendor, prompt]
        )

    length = training.Length(steps, cooldown)
    training.train(model, draw_loss, HERE, length=length, batch=batch, lr=lr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, required=True, help="total, including resumed ones")
    parser.add_argument("--cooldown", type=int, default=1000, help="last steps, with falling rate")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    train(**vars(parser.parse_args()))
