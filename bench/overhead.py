"""Measures MagCache's own cost, compared with the same model without it in the same process.

    python -m bench.overhead

Small FLUX models with random weights on a CPU, in about three minutes; bench.gpu measures full-size
models on a GPU. For each model it alternates a plain call, a computed and a skipped evaluation, and
a call with empty block lists (embedders and head only), so that drift of the machine affects all
equally. Figures are medians over the repeats of the ratios within a repeat. Saves them in
bench/results and writes the tables of docs/overhead.md.
"""

import argparse
import platform
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from rich.progress import track
from torch import nn

import magcache
from magcache.blocks import find_stack
from magcache.calibrate import Calibrator
from magcache.curves import MagnitudeCurve, Trajectory, presets, prior, shifted_sigmas
from magcache.decide import (
    Course,
    Decision,
    Holding,
    Reason,
    Rule,
    RuleDecider,
    Target,
    decider_for,
)
from magcache.hosts.diffusers.models import FAMILIES
from magcache.run import Run
from tools.tables import filled, table

from .gpu.cases import random_model
from .kept import write_whole
from .quality.counting import quiet

PAGE = Path("docs/overhead.md")
SIZES = ((8, 16), (8, 32), (8, 48), (4, 32), (16, 32))
"""Blocks, and the side of the square of image tokens."""
HEADS, TEXT, JOINT = 2, 32, 256
WIDTH = 128 * HEADS
PRESET = "flux"
CPU = torch.device("cpu")
_LEVELS = Trajectory((1.0, 0.5, 0.25))
_CURVES = {"cond": MagnitudeCurve((1.0, 0.0), (0.0, 0.0))}
Call = Callable[[], Any]


@dataclass
class Result:
    """Medians for one model. Seconds are processor time of one call.

    Attributes:
        computed_over_plain: Time of a computed evaluation over a plain call.
        quartiles: Quartiles of this ratio, which show how noisy the machine was.
        measured_over_plain: The same for an evaluation that also calibrates.
        skipped_over_plain: Time of a skipped evaluation over a plain call.
        predicted_over_plain: The same if it is predicted from three residuals.
        skipped_over_bare: Time of a skipped evaluation over embedders and head.
        bytes_held: Bytes per branch.
        loop_speedup: Measured speed-up of a whole sampling.
        loop_ideal: Its number of evaluations over the computed ones.
    """

    blocks: int
    tokens: int
    plain_seconds: float
    computed_over_plain: float
    quartiles: tuple[float, float]
    measured_over_plain: float
    skipped_over_plain: float
    predicted_over_plain: float
    skipped_over_bare: float
    bytes_held: int
    loop_speedup: float
    loop_ideal: float


def flux(blocks: int) -> nn.Module:
    """FLUX of width 256; a third of its blocks are double blocks."""
    double = max(1, blocks // 3)
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=double,
        num_single_layers=blocks - double,
        num_attention_heads=HEADS,
        joint_attention_dim=JOINT,
        pooled_projection_dim=JOINT,
        guidance_embeds=True,
    )


def inputs_of(side: int) -> dict[str, Any]:
    """Random inputs of one call, with side x side image tokens."""
    ids = torch.zeros(side, side, 3)
    ids[..., 1] += torch.arange(side)[:, None]
    ids[..., 2] += torch.arange(side)[None, :]
    return {
        "hidden_states": torch.randn(1, side * side, 64),
        "encoder_hidden_states": torch.randn(1, TEXT, JOINT),
        "pooled_projections": torch.randn(1, JOINT),
        "img_ids": ids.flatten(0, 1),
        "txt_ids": torch.zeros(TEXT, 3),
        "guidance": torch.full((1,), 3.5),
    }


def seconds_of(call: Call) -> float:
    """Processor time, because machines are shared."""
    began = time.process_time()
    call()
    return time.process_time() - began


def in_turn(calls: dict[str, Call], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call by name. Each repeat runs all of them, in random order."""
    for _ in range(3):  # warm-up: the first computed evaluation also checks the base
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, order = list(calls), random.Random(0)
    for _ in range(repeats):
        order.shuffle(names)  # so that no call always profits from caches filled by another
        for name in names:
            times[name].append(seconds_of(calls[name]))
    return times


def measure(blocks: int, side: int, repeats: int) -> Result:
    model, inputs = random_model(partial(flux, blocks), CPU, torch.float32), inputs_of(side)
    timestep = torch.full((1,), 0.5)

    def plain() -> Any:
        return model(**inputs, timestep=timestep, return_dict=False)

    stack = find_stack(model, FAMILIES)

    def bare() -> Any:
        with stack._emptied():
            return plain()

    computing, skipping = _run_of(stack, retention=1.0), _run_of(stack, retention=0.0)
    measuring = Run(computing.decider, stack, calibrator=Calibrator())
    predicting = Run(FromThree(), stack)

    def evaluate(run: Run) -> Any:
        run.begin(0.5, 0)
        return run.call("cond", "cond", CPU, plain)

    times = in_turn(
        {
            "plain": plain,
            "computed": lambda: evaluate(computing),
            "measured": lambda: evaluate(measuring),
            "skipped": lambda: evaluate(skipping),
            "predicted": lambda: evaluate(predicting),
            "bare": bare,
        },
        repeats,
    )
    assert computing.skipped == 0 and skipping.skipped == repeats + 2
    assert predicting.skipped == repeats and len(predicting.cache.sigmas("cond")) == 3

    def ratios(above: str, below: str) -> list[float]:
        return [a / b for a, b in zip(times[above], times[below], strict=True)]

    assert skipping.cache.bytes_held == side**2 * WIDTH * 4  # tokens, channels, bytes of float32
    low, overhead, high = quantiles(ratios("computed", "plain"), n=4)
    speedup, ideal = loop(model, inputs)
    return Result(
        blocks=blocks,
        tokens=side**2,
        plain_seconds=median(times["plain"]),
        computed_over_plain=overhead,
        quartiles=(low, high),
        measured_over_plain=median(ratios("measured", "plain")),
        skipped_over_plain=median(ratios("skipped", "plain")),
        predicted_over_plain=median(ratios("predicted", "plain")),
        skipped_over_bare=median(ratios("skipped", "bare")),
        bytes_held=skipping.cache.bytes_held,
        loop_speedup=speedup,
        loop_ideal=ideal,
    )


def loop(model: nn.Module, inputs: dict[str, Any]) -> tuple[float, float]:
    """The measured and the ideal speed-up of a whole Euler sampling."""
    preset = presets.load(PRESET)
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)

    def sample() -> None:
        scheduler.set_timesteps(preset.settings["steps"])
        scheduler.set_begin_index(0)
        latents = inputs["hidden_states"]
        for t in scheduler.timesteps:
            called = {**inputs, "hidden_states": latents, "timestep": t.expand(1) / 1000}
            velocity = model(**called, return_dict=False)[0]
            latents = scheduler.step(velocity, t, latents, return_dict=False)[0]

    uncached = seconds_of(sample)
    with magcache.apply(model, preset=preset, scheduler=scheduler) as applied:
        cached = seconds_of(sample)
        report = applied.report()
    return uncached / cached, report.evaluations / report.computed


class FromThree(RuleDecider):
    """Computes until three evaluations are held, and predicts all others from them."""

    def __init__(self) -> None:
        super().__init__(Rule(1, 1, 0), Course.of_steps(_LEVELS), _CURVES)
        self.keep = 3

    def decide(self, sigma: float, step: int, held: Holding) -> Decision:
        if any(len(each.sigmas) < self.keep for each in held.values()):
            return Decision(Reason.PLANNED)
        return Decision(Reason.SKIPPED, dict.fromkeys(held, (0.5, -1.5, 2.0)))


def _run_of(stack: Any, retention: float) -> Run:
    """A run that computes everything (retention 1) or all but the first evaluation (0)."""
    rule = Rule(threshold=1e9, max_skip=10**9, retention=retention)
    return Run(decider_for(rule, Course.of_steps(_LEVELS), _CURVES), stack)


def planning() -> dict[str, dict[int, float]]:
    """Milliseconds to plan a run at 2x, by where the curves are from and the number of steps."""
    own = prior.members()["emoji"]
    calibrated = {"cond": own["mean"], "uncond": own["mean"]}
    found: dict[str, dict[int, float]] = {"a calibration": {}, "the prior": {}}
    for source, grams in (("a calibration", calibrated), ("the prior", {})):
        for steps in (28, 50, 100):
            course = Course.of_steps(Trajectory(shifted_sigmas(steps, 3.0)))
            plan = partial(decider_for, Target(speedup=2), course, {}, grams, 3.0)
            found[source][steps] = 1000 * median(seconds_of(plan) for _ in range(20))
    return found


def rows_of(results: list[Result]) -> str:
    """A row per model, in Markdown."""
    heads = (
        "blocks, tokens", "one call", "computed / plain (quartiles)", "calibrating / plain",
        "skipped / plain", "predicted from 3 / plain", "skipped / (embedders + head)",
        "bytes a branch", "sampling: measured / ideal",
    )  # fmt: skip
    rows = [
        [
            f"{r.blocks}, {r.tokens}", f"{1000 * r.plain_seconds:.0f} ms",
            f"{r.computed_over_plain:.3f} ({r.quartiles[0]:.3f}-{r.quartiles[1]:.3f})",
            f"{r.measured_over_plain:.3f}", f"{r.skipped_over_plain:.4f}",
            f"{r.predicted_over_plain:.4f}", f"{r.skipped_over_bare:.3f}", f"{r.bytes_held:,}",
            f"{r.loop_speedup:.2f}x / {r.loop_ideal:.2f}x",
        ] for r in results
    ]  # fmt: skip
    return table(heads, rows, len(heads) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    quiet()
    with torch.no_grad():
        results = [measure(*size, repeats) for size in track(SIZES, "models")]
    planned = planning()
    where = f"{platform.processor() or 'CPU'}, torch {torch.__version__}, one thread"
    found = {"machine": where, "results": [asdict(r) for r in results], "planning_ms": planned}
    write_whole("overhead-cpu", found)
    rows = [
        [source, *(f"{ms:.0f} ms" for ms in times.values())] for source, times in planned.items()
    ]
    plans = table(["planned from", *(f"{n} steps" for n in planned["the prior"])], rows, 3)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(filled(page, {"models": rows_of(results), "planning": plans}), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
