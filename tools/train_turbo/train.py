"""Distils the emoji model into one that needs four to eight steps and no guidance.

python -m tools.train_emoji.data
python -m tools.train_turbo.train --pairs 45 --seconds 285 --cooldown 200 --folder tools/train_turbo

First the emoji model draws pairs of noise and picture, with 28 steps and guidance 3. Then a copy of
it learns straight paths between the two (rectified flow, arXiv 2209.03003). Half of each batch are
points on the straight path. The other half are points that the copy itself has reached from the
noise in a few Euler steps. From both, the velocity must lead to the teacher's picture. So the copy
learns to correct its own errors, and has the teacher's guidance built in.
"""

import copy
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from magcache.emoji import keywords
from tools import exporting, training
from tools.train_emoji import data
from tools.train_emoji.model import EmojiModel
from tools.train_emoji.train import Batches, vocabulary_of

TEACHER = exporting.MODELS / "emoji"
STEPS = 28
CFG = 3.0
STEP_COUNTS = (4, 8, 2, 3, 5, 6, 7)
OFTEN = (0.35, 0.35, 0.06, 0.06, 0.06, 0.06, 0.06)
SOFT = 0.1  # the loss is quadratic well below this error and linear well above
SHAPE = (64, 64)


class Pairs:
    """Noise, the teacher's picture from it, and its words, all (N, ...) on one device."""

    def __init__(self, teacher: EmojiModel, batches: Batches, seconds: float) -> None:
        """Draws pairs for `seconds`, `batches.size` at a time."""
        started = time.perf_counter()
        noise, clean, words = [], [], []
        while not noise or time.perf_counter() - started < seconds:
            words.append(batches.draw()[2])
            noise.append(torch.randn(batches.size, *SHAPE, device=batches.device))
            clean.append(draw(teacher, noise[-1], words[-1]))
            clean[-1].sum().item()  # waits for the GPU, for the clock
        self.noise, self.clean, self.words = torch.cat(noise), torch.cat(clean), torch.cat(words)

    def pick(self, count: int) -> torch.Tensor:
        """Indices of random pairs, (count,)."""
        return torch.randint(len(self.noise), (count,), device=self.noise.device)


@torch.no_grad()
def draw(teacher: EmojiModel, noise: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """The teacher's pictures from `noise` (B, 64, 64), with Euler's method and guidance."""
    x, both = noise, torch.cat([words, torch.zeros_like(words)])
    for step in range(STEPS):
        sigma = torch.full((len(both),), 1 - step / STEPS, device=x.device)
        with training.half_precision(x.device):
            prompted, free = teacher(torch.cat([x, x]), both, sigma).float().chunk(2)
        x = x - (free + CFG * (prompted - free)) / STEPS
    return x


class Walkers:
    """Unfinished samplings by the student, which advance one Euler step per training step."""

    def __init__(self, pairs: Pairs, count: int) -> None:
        self.pairs = pairs
        self.pair = pairs.pick(count)
        self.x = pairs.noise[self.pair]
        self.steps = self._step_counts(count)
        self.done = torch.zeros_like(self.steps)

    def _step_counts(self, count: int) -> torch.Tensor:
        device = self.pairs.noise.device
        chosen = torch.multinomial(torch.tensor(OFTEN, device=device), count, replacement=True)
        return torch.tensor(STEP_COUNTS, device=device)[chosen]

    @property
    def sigma(self) -> torch.Tensor:
        return 1 - self.done / self.steps

    def advance(self, velocity: torch.Tensor) -> None:
        """Advances each sampling by a step. Finished ones start again with another pair."""
        self.x = self.x - velocity / self.steps[:, None, None]
        self.done = self.done + 1
        count = len(self.x)
        arrived, pair = torch.eq(self.done, self.steps), self.pairs.pick(count)
        self.pair = torch.where(arrived, pair, self.pair)
        self.steps = torch.where(arrived, self._step_counts(count), self.steps)
        self.done = self.done * ~arrived
        self.x = torch.where(arrived[:, None, None], self.pairs.noise[pair], self.x)


def train(
    pairs: float, seconds: float, cooldown: float, folder: Path, batch: int, lr: float, device: str
) -> None:
    teacher = load_teacher().to(device)
    student = copy.deepcopy(teacher)
    student.words.requires_grad_(False)
    made = Pairs(teacher, Batches(data.load(), 2 * batch, device), pairs)
    print(f"{len(made.noise)} pairs", flush=True)
    walkers = Walkers(made, batch // 2)

    def draw_loss() -> torch.Tensor:
        pair, sigma = made.pick(batch - batch // 2), torch.rand(batch - batch // 2, device=device)
        straight = made.clean[pair].lerp(made.noise[pair], sigma[:, None, None])
        x = torch.cat([straight, walkers.x])
        pair, sigma = torch.cat([pair, walkers.pair]), torch.cat([sigma, walkers.sigma])
        sigma = sigma.clamp(min=1e-3)
        with training.half_precision(x.device):
            velocity = student(x, made.words[pair], sigma).float()
        walkers.advance(velocity.detach()[batch - batch // 2 :])
        target = (x - made.clean[pair]) / sigma[:, None, None]
        error = (velocity - target).square().mean((1, 2))
        return ((error + SOFT**2).sqrt() - SOFT).mean()

    length = training.Length(seconds, cooldown, timed=True)
    training.train(student, draw_loss, folder, length=length, batch=batch, lr=lr)


def load_teacher(folder: Path = TEACHER) -> EmojiModel:
    """The emoji model with its words."""
    words = keywords.read(folder)
    if words.vocabulary != vocabulary_of(data.load()):
        raise ValueError(f"the words of {folder} differ from those of the artwork")
    model = EmojiModel(len(words.vocabulary))
    model.words.weight.data = words.table
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    model.transformer.load_state_dict({name: w.float() for name, w in weights.items()})
    return model


if __name__ == "__main__":
    options = training.device_options(__doc__, batch=1024, lr=1e-3)
    options.add_argument("--pairs", type=float, required=True, help="seconds for drawing pairs")
    train(**vars(options.parse_args()))
