"""The training loop of the small models. It can stop and resume at any step.

The learning rate is constant and then falls linearly over the last steps, so a run can be extended
by starting it again with more steps. With a time limit, for example on a borrowed GPU, a run keeps
only the averaged weights and cannot resume. Muon trains the blocks' matrices, AdamW the rest. The
exported weights are an exponential moving average.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

EMA_DECAY = 0.9985
WARM_UP = 100
LOG_EVERY = 50
SAVE_EVERY = 200
SAVE_SECONDS = 60


@dataclass(frozen=True)
class Length:
    """How long to train: up to step `end`, or for `end` seconds if `timed`.

    The learning rate falls to zero over the last `cooldown` steps or seconds.
    """

    end: float
    cooldown: float
    timed: bool = False

    def left(self, step: int, seconds: float) -> float:
        return self.end - (seconds if self.timed else step)

    def rate(self, lr: float, step: int, seconds: float) -> float:
        left = self.left(step, seconds) / max(self.cooldown, 1)
        return lr * max(0.0, min(1, (step + 1) / WARM_UP, left))


def device_options(doc: str | None, *, batch: int, lr: float) -> argparse.ArgumentParser:
    """The options of a script that trains on a GPU for a given time."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, required=True, help="training time after set-up")
    parser.add_argument("--cooldown", type=float, required=True, help="seconds of falling rate")
    parser.add_argument("--folder", type=Path, required=True, help="folder for checkpoint and log")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--device", default="cuda")
    return parser


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU only, because not every CPU is faster with it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def flow_matching_loss(
    velocity: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], clean: torch.Tensor
) -> torch.Tensor:
    """Mean squared error of `velocity(noisy, sigma)` at logit-normal noise levels.

    `clean` (B, ...); `sigma` (B,) in [0, 1]; the velocity is `noise - clean`.
    """
    sigma = torch.randn(len(clean)).sigmoid()
    noise = torch.randn_like(clean)
    level = sigma.reshape(-1, *[1] * (clean.ndim - 1))
    with torch.autocast("cpu", torch.bfloat16):
        predicted = velocity(clean + level * (noise - clean), sigma)
    return (predicted.float() - (noise - clean)).square().mean()


def train(
    model: nn.Module,
    draw_loss: Callable[[], torch.Tensor],
    folder: Path,
    *,
    length: Length,
    batch: int,
    lr: float,
    muon: bool = True,
) -> None:
    """Trains for `length`. Resumes from `folder`/checkpoint.pt if it exists, unless timed.

    `draw_loss` draws a batch of `batch` samples and returns its loss. Every 50 steps a line is
    added to `folder`/training_log.jsonl. Without `muon`, AdamW also trains the blocks' matrices: if
    they are many and small, Muon takes longer than the model.
    """
    run = _Run(model, _optimizers_of(model, lr, muon), folder, batch)
    if not length.timed:
        run.resume()
    while length.left(run.step, run.seconds) > 0:
        rate = length.rate(lr, run.step, run.seconds)
        for optimizer in run.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss = draw_loss()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in run.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        run.advance(loss.detach())
        last = length.left(run.step, run.seconds) <= 0
        if run.step % LOG_EVERY == 0 or last:
            run.log(rate)
        if length.timed:
            if run.seconds - run.saved >= SAVE_SECONDS or last:
                run.save_average()
        elif run.step % SAVE_EVERY == 0 or last:
            run.save()


@dataclass
class _Run:
    """The state of a training run, and the files that it writes."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    folder: Path
    batch: int
    step: int = 0
    saved: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self._averaged: list[torch.Tensor] = [*self.average.parameters()]
        self._losses: list[torch.Tensor] = []
        self._logged = self.started
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = self.folder / "checkpoint.pt"

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def advance(self, loss: torch.Tensor) -> None:
        """Counts a step and updates the averaged weights."""
        self._losses.append(loss)
        self.step += 1
        decay = min(EMA_DECAY, self.step / (self.step + 9))
        with torch.no_grad():
            weights: list[torch.Tensor] = [*self.model.parameters()]
            torch._foreach_lerp_(self._averaged, weights, 1 - decay)

    def log(self, rate: float) -> None:
        loss = torch.stack(self._losses).mean().item()  # the only synchronisation with a GPU
        now = time.perf_counter()
        line = {"step": self.step, "loss": loss, "lr": rate}
        line["samples_per_second"] = round(self.batch * len(self._losses) / (now - self._logged), 1)
        with (self.folder / "training_log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._losses, self._logged = [], now

    def resume(self) -> None:
        if not self.checkpoint.exists():
            return
        saved = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.step = saved["step"]

    def save(self) -> None:
        self._write(
            {
                "step": self.step,
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            }
        )

    def save_average(self) -> None:
        """Saves only the averaged weights, in half precision, which keeps the file small."""
        average = {name: w.half().cpu() for name, w in self.average.state_dict().items()}
        self._write({"step": self.step, "average": average})
        self.saved = self.seconds

    def _write(self, state: dict[str, Any]) -> None:
        scratch = self.checkpoint.with_suffix(".new")
        torch.save(state, scratch)
        scratch.replace(self.checkpoint)


def _optimizers_of(model: nn.Module, lr: float, muon: bool) -> list[torch.optim.Optimizer]:
    hidden, rest = [], []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        in_block = "blocks." in name and weight.ndim == 2 and "norm" not in name
        (hidden if in_block else rest).append(weight)
    if not muon:
        hidden, rest = [], rest + hidden
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    ]
    if hidden:
        scaled = {"weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}
        optimizers.insert(0, torch.optim.Muon(hidden, lr=lr, **scaled))
    return optimizers
