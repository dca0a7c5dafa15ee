"""Trains the emoji model; stops and resumes at any step.

    python -m tools.train_emoji.data
    python -m tools.train_emoji.train --steps 4000 --cooldown 1000

Constant learning rate, then a linear cool-down over the last `--cooldown` steps, so a run
can be prolonged: start it again with a larger `--steps`. Muon trains the blocks' matrices,
AdamW the rest; the weights that are exported are an exponential moving average.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import torch

from tools.train_emoji import data
from tools.train_emoji.model import TEXT_TOKENS, EmojiModel, to_patches

HERE = Path(__file__).parent
CHECKPOINT = HERE / "checkpoint.pt"
LOG = HERE / "training_log.jsonl"
EMA_DECAY = 0.9985
DROP_PROMPT = 0.1
DROP_VENDOR = 0.5
EVERY = 50


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


def loss_of(model: EmojiModel, clean: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Flow-matching loss at logit-normal noise levels."""
    sigma = torch.randn(len(clean)).sigmoid()
    noise = torch.randn_like(clean)
    noisy = clean + sigma[:, None, None] * (noise - clean)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model(noisy, words, sigma)
    return (velocity.float() - (noise - clean)).square().mean()


def optimizers_of(model: EmojiModel, lr: float) -> list[torch.optim.Optimizer]:
    hidden, rest = [], []
    for name, weight in model.named_parameters():
        in_block = "transformer_blocks." in name and weight.ndim == 2 and "norm" not in name
        (hidden if in_block else rest).append(weight)
    muon = torch.optim.Muon(hidden, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    return [muon, adamw]


def train(steps: int, cooldown: int, batch: int, lr: float) -> None:
    emoji = data.load()
    batches = Batches(emoji, batch)
    model = EmojiModel(len(vocabulary_of(emoji)))
    average = copy.deepcopy(model).requires_grad_(False)
    optimizers = optimizers_of(model, lr)
    start = 0
    if CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        start = saved["step"]
    losses, clock = [], time.perf_counter()
    for step in range(start, steps):
        rate = lr * min(1, (step + 1) / 100, (steps - step) / cooldown)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss = loss_of(model, *batches.draw())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        losses.append(loss.item())
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            seconds = time.perf_counter() - clock
            line = {"step": step + 1, "loss": sum(losses) / len(losses), "lr": rate}
            line["images_per_second"] = round(batch * len(losses) / seconds, 1)
            with LOG.open("a") as log:
                log.write(json.dumps(line) + "\n")
            losses, clock = [], time.perf_counter()
        if (step + 1) % (4 * EVERY) == 0 or step + 1 == steps:
            state = {
                "step": step + 1,
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            }
            torch.save(state, CHECKPOINT.with_suffix(".new"))
            CHECKPOINT.with_suffix(".new").replace(CHECKPOINT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, required=True, help="total, resumed ones included")
    parser.add_argument("--cooldown", type=int, default=1000, help="last steps at falling rate")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    train(**vars(parser.parse_args()))
