"""The training loop that both small models share; stops and resumes at any step.

Constant learning rate, then a linear cool-down over the last steps, so a run can be prolonged:
start it again with more steps. Muon trains the blocks' matrices, AdamW the rest; the weights that
are exported are an exponential moving average.
"""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

EMA_DECAY = 0.9985
WARM_UP = 100
LOG_EVERY = 50
SAVE_EVERY = 200


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
    steps: int,
    cooldown: int,
    batch: int,
    lr: float,
) -> None:
    """Trains up to step `steps`, from `folder`/checkpoint.pt if it is there.

    `draw_loss` draws a batch of `batch` samples and returns its loss. Every 50 steps a line goes
    to `folder`/training_log.jsonl.
    """
    checkpoint, log = folder / "checkpoint.pt", folder / "training_log.jsonl"
    average = copy.deepcopy(model).requires_grad_(False)
    optimizers = _optimizers_of(model, lr)
    start = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        start = saved["step"]
    losses, clock = [], time.perf_counter()
    for step in range(start, steps):
        rate = lr * min(1, (step + 1) / WARM_UP, (steps - step) / max(cooldown, 1))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss = draw_loss()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        losses.append(loss.item())
        last = step + 1 == steps
        if (step + 1) % LOG_EVERY == 0 or last:
            seconds = time.perf_counter() - clock
            line = {"step": step + 1, "loss": sum(losses) / len(losses), "lr": rate}
            line["samples_per_second"] = round(batch * len(losses) / seconds, 1)
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
            losses, clock = [], time.perf_counter()
        if (step + 1) % SAVE_EVERY == 0 or last:
            state = {
                "step": step + 1,
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            }
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)


def _optimizers_of(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    hidden, rest = [], []
    for name, weight in model.named_parameters():
        in_block = "blocks." in name and weight.ndim == 2 and "norm" not in name
        (hidden if in_block else rest).append(weight)
    muon = torch.optim.Muon(hidden, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    return [muon, adamw]
