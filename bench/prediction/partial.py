"""Tests partly computed evaluations at eight steps: a third of the blocks, or one branch, reused.

A reused block adds to its input what it added last time. Compared with the forecast and plain steps
at the same cost.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import nn

from bench.kept import Kept
from tools.tables import table

from . import forecast
from .forecast import FIRST, Lab, Outputs, Planned, psnr, subject_of

COSTS = (7, 6)
WAYS = {
    "first third of the blocks reused": ("#f#f#f##", "#fffff#f"),
    "last third of the blocks reused": ("#l#l#l##", "#lllll#l"),
    "only cond computed": ("#c##c###", "#c#c#c#c"),
}
"""Schedules for each cost: f and l save a third of an evaluation, c a half."""
FORECAST = ("#####.##", "###.#.##")
LABS = [
    Lab("emoji-turbo", 8, 1.0, 3.0, "euler", 16, FIRST),
    Lab("emoji", 8, 3.0, 3.0, "euler", 16, FIRST),
    Lab("emoji-video", 8, 3.0, 3.0, "euler", 4, FIRST),
]


def tables() -> dict[str, str]:
    kept = Kept("partial")

    def cell(lab: Lab, way: str) -> str | None:
        if way == "only cond computed" and lab.cfg == 1:
            return None
        means = []
        for cost, _ in enumerate(COSTS):
            key = f"{lab.told}: {way}: {COSTS[cost]}"
            found = kept.of(key, lambda cost=cost: {"psnr": _psnr(lab, way, cost)})
            means.append(f"{np.mean(found['psnr']):.1f}")
        return ", ".join(means)

    ways = ["plain steps", "forecast", *WAYS]
    rows = [[way, *(cell(lab, way) for lab in LABS)] for way in track(ways, "sampling")]
    return {"partial": table(["", *(lab.name for lab in LABS)], rows, len(LABS))}


def _psnr(lab: Lab, way: str, cost: int) -> list[float]:
    if way == "plain steps":
        found = lab.plain(COSTS[cost])
    elif way == "forecast":
        found = lab.psnr(plan=planned(lab, FORECAST[cost]))
    else:
        found = psnr(images(lab, WAYS[way][cost]), lab.reference)
    return [round(each, 2) for each in found]


@contextmanager
def reusing(blocks: Sequence[nn.Module], reused: Callable[[], bool]) -> Iterator[None]:
    """Lets blocks add to their input what they added last time, whenever `reused` says so."""
    for block in blocks:
        original, kept = block.forward, {}

        def forward(
            *args: Any, original: Any = original, kept: dict[str, Any] = kept, **kwargs: Any
        ) -> Any:
            streams = [kwargs.get("hidden_states", args[0] if args else None)]
            if "encoder_hidden_states" in kwargs:
                streams.append(kwargs["encoder_hidden_states"])
            if reused():
                found = [x + added for x, added in zip(streams, kept["added"], strict=True)]
                return found[0] if kept["alone"] else (found[1], found[0])
            output = original(*args, **kwargs)
            kept["alone"] = isinstance(output, torch.Tensor)
            after = [output] if kept["alone"] else [output[1], output[0]]
            kept["added"] = [b - a for a, b in zip(streams, after, strict=False)]
            return output

        block.forward = forward
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


@torch.no_grad()
def images(lab: Lab, way: str) -> torch.Tensor:
    """A batch sampled with some evaluations computed only partly."""
    subject, cfg = subject_of(lab.name), lab.cfg
    prompts = subject.model.prompts("test")[lab.first : lab.first + lab.prompts]
    seeds = range(lab.first, lab.first + len(prompts))
    every = [prompts] if cfg == 1 else [prompts, [""] * len(prompts)]
    lists = [m for m in subject.network.children() if isinstance(m, nn.ModuleList)]
    blocks = [block for each in lists for block in each]
    third, now = len(blocks) // 3, [""]
    plan = planned(lab, way)
    x, held, before = subject.noise(seeds, lab.levels[0]), [], None
    with (
        reusing(blocks[:third], lambda: now[0] == "f"),
        reusing(blocks[-third:], lambda: now[0] == "l"),
    ):
        for place, level in enumerate(lab.levels[:-1]):
            now[0] = way[place]
            branches = every[:1] if now[0] == "c" else every
            texts = [text for branch in branches for text in branch]
            doubled = torch.cat([x] * len(branches))
            output = subject.call(doubled, float(level), texts)()[0]
            found: Outputs = list(output.chunk(len(branches)))
            if len(found) < len(every):  # assume that both branches have the same error
                guessed = plan.predicted(held, float(level))
                found.append(guessed[1] + found[0] - guessed[0])
            else:
                held = [*held, (float(level), found)][-forecast.KEEP :]
            guided = forecast._guided(found, cfg)
            x, before = forecast._step(subject, x, lab.levels, place, guided, before, lab.sampler)
    return subject.model.decode(x)


def planned(lab: Lab, way: str) -> Planned:
    """Prediction from the prior, with this schedule."""
    return replace(lab.plan(len(way)), chosen=[each != "." for each in way])
