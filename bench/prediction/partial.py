"""Tests partly computed evaluations at eight steps: a third of the blocks, or one branch, reused.

    python -m bench.prediction.partial

A reused block adds to its input what it added last time. Prints PSNR against the full run, mean /
10th percentile / minimum, for these, the forecast and plain steps at the same cost.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from bench.figures import mean_tenth_least
from bench.quality.counting import quiet

from . import forecast
from .forecast import Lab, Outputs, Planned, psnr, subject_of

PARTIAL = {"first third": "f", "last third": "l", "cond only": "c"}
WAYS = {
    1.0: ("#f#f#f##", "#l#l#l##", "#c##c###"),
    2.0: ("#fffff#f", "#lllll#l", "#c#c#c#c"),
}
"""Schedules by the number of evaluations they save: f and l save a third each, c a half."""
PLANS = {1.0: "#####.##", 2.0: "###.#.##"}


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
    best = lab.plan(len(way), False, "prior", forecast.DEFAULT, "all")
    return replace(best, chosen=[each != "." for each in way])


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0]).parse_args()
    quiet()
    table = Table("eight steps, Euler, shift 3", "7 of 8", "6 of 8", title="PSNR, dB")

    def told(lab: Lab, found: torch.Tensor) -> str:
        return mean_tenth_least(psnr(found, lab.reference))

    for name, cfg, prompts in (
        ("emoji-turbo", 1.0, 16),
        ("emoji", 3.0, 16),
        ("emoji-video", 3.0, 4),
    ):
        lab = Lab(name, 8, cfg, 3.0, "euler", prompts, first=0)
        rows = {
            f"{name}: plain steps": [
                lab.images(levels=subject_of(name).levels(n, 3.0)) for n in (7, 6)
            ]
        }
        rows[f"{name}: forecast"] = [lab.images(plan=planned(lab, PLANS[s])) for s in (1.0, 2.0)]
        for title, symbol in PARTIAL.items():
            if symbol != "c" or cfg != 1:
                ways = [next(w for w in WAYS[saved] if symbol in w) for saved in (1.0, 2.0)]
                rows[f"{name}: {title}"] = [images(lab, way) for way in ways]
        for title, found in rows.items():
            table.add_row(title, *(told(lab, each) for each in found))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
