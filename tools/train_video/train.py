"""Trains the video model, first on single frames, which is cheap, then on clips.

python -m tools.train_video.data
python -m tools.train_video.train --frames 1 --batch 128 --steps 1200
python -m tools.train_video.train --frames 8 --batch 16 --steps 6000 --cooldown 1500
"""

import argparse
from pathlib import Path

import torch

from tools import training
from tools.train_video import data
from tools.train_video.model import TEXT_TOKENS, VideoModel, to_latents

HERE = Path(__file__).parent
DROP_PROMPT = 0.1


def vocabulary_of(prompts: list[str]) -> list[str]:
    """Padding first, then the words in alphabetical order."""
    return ["", *sorted({word for prompt in prompts for word in prompt.split()})]


def draw(
    loops: data.Loops, words: torch.Tensor, frames: int, batch: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (batch, 16, frames, 16, 16) at random phases, and their words (batch, 8)."""
    prompts = torch.randint(len(loops.prompts), (batch,))
    phases = torch.randint(data.PHASES, (batch,))
    clips = [
        loops.clip(prompt, phase)[:, :frames]
        for prompt, phase in zip(prompts.tolist(), phases.tolist(), strict=True)
    ]
    chosen = words[prompts]
    chosen[torch.rand(batch) < DROP_PROMPT] = 0
    return to_latents(torch.stack(clips)), chosen


def train(frames: int, steps: int, cooldown: int, batch: int, lr: float) -> None:
    loops = data.load()
    vocabulary = vocabulary_of(loops.prompts)
    words = torch.zeros(len(loops.prompts), TEXT_TOKENS, dtype=torch.long)
    for row, prompt in zip(words, loops.prompts, strict=True):
        for column, word in enumerate(prompt.split()):
            row[column] = vocabulary.index(word)
    model = VideoModel(len(vocabulary))
    for block in model.transformer.blocks:
        block.compile()

    def draw_loss() -> torch.Tensor:
        clean, chosen = draw(loops, words, frames, batch)
        return training.flow_matching_loss(lambda x, sigma: model(x, chosen, sigma), clean)

    length = training.Length(steps, cooldown)
    training.train(model, draw_loss, HERE, length=length, batch=batch, lr=lr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--frames", type=int, choices=range(1, data.FRAMES + 1), required=True)
    parser.add_argument("--steps", type=int, required=True, help="total, including resumed ones")
    parser.add_argument("--cooldown", type=int, default=0, help="last steps, with falling rate")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--lr", type=float, default=2e-3)
    train(**vars(parser.parse_args()))
