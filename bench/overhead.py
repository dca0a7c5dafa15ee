"""Measures MagCache's own cost, compared with the same model without it in the same process.

    python -m bench.overhead                 small FLUX models and planning on a CPU, three minutes
    python -m bench.overhead --device cuda   also full-size FLUX and Wan 14B, random weights

For each model it alternates a plain call, a computed and a skipped evaluation, and a call with
empty block lists (embedders and head only), so that drift of the machine affects all equally.
Figures are medians over the repeats of the ratios within a repeat.
"""

import argparse
import platform
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median, quantiles
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel, WanTransformer3DModel
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

from .kept import write_whole

_LEVELS = Trajectory((1.0, 0.5, 0.25))
_CURVES = {"cond": MagnitudeCurve((1.0, 0.0), (0.0, 0.0))}
Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A model, the inputs of one call, and the preset of its end-to-end run."""

    name: str
    preset: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Any]]
    tokens: int
    channels: int


@dataclass
class Result:
    """Medians. Seconds are for one call.

    Attributes:
        computed_over_plain: Time of a computed evaluation over a plain call (goal <= 1.01).
        quartiles: Quartiles of this ratio, which show how noisy the machine was.
        measured_over_plain: The same for an evaluation that also calibrates (goal <= 1.02).
        skipped_over_plain: Time of a skipped evaluation over a plain call.
        predicted_over_plain: The same if it is predicted from three residuals (goal <= 0.03).
        skipped_over_bare: Time of a skipped evaluation over embedders and head (goal <= 1.10).
        bytes_held: Bytes per branch; `bytes_expected` is tokens x channels x element size.
        loop_speedup: Measured speed-up of a whole sampling.
        loop_ideal: Its number of evaluations over the computed ones.
    """

    name: str
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
    bytes_expected: int
    loop_speedup: float
    loop_ideal: float


def flux_case(depth: int, side: int, heads: int, device: str, dtype: torch.dtype) -> Case:
    """FLUX with `depth` blocks, a third of them double blocks, and side x side image tokens."""
    double, text, width = max(1, depth // 3), 512 if heads == 24 else 32, 128 * heads
    joint, pooled = (4096, 768) if heads == 24 else (256, 256)

    def build() -> nn.Module:
        return FluxTransformer2DModel(
            in_channels=64,
            num_layers=double,
            num_single_layers=depth - double,
            num_attention_heads=heads,
            joint_attention_dim=joint,
            pooled_projection_dim=pooled,
            guidance_embeds=True,
        )

    def inputs() -> dict[str, Any]:
        ids = torch.zeros(side, side, 3, device=device, dtype=dtype)
        ids[..., 1] += torch.arange(side, device=device)[:, None]
        ids[..., 2] += torch.arange(side, device=device)[None, :]
        return {
            "hidden_states": torch.randn(1, side * side, 64, device=device, dtype=dtype),
            "encoder_hidden_states": torch.randn(1, text, joint, device=device, dtype=dtype),
            "pooled_projections": torch.randn(1, pooled, device=device, dtype=dtype),
            "img_ids": ids.flatten(0, 1),
            "txt_ids": torch.zeros(text, 3, device=device, dtype=dtype),
            "guidance": torch.full((1,), 3.5, device=device),
        }

    name = f"FLUX, width {width}, {depth} blocks, {side * side} tokens"
    return Case(name, "flux", build, inputs, side * side, width)


def wan_14b_case(device: str, dtype: torch.dtype) -> Case:
    """Wan 2.1 14B with 81 frames of 832x480."""

    def build() -> nn.Module:
        return WanTransformer3DModel(num_attention_heads=40, num_layers=40, ffn_dim=13824)

    def inputs() -> dict[str, Any]:
        return {
            "hidden_states": torch.randn(1, 16, 21, 60, 104, device=device, dtype=dtype),
            "encoder_hidden_states": torch.randn(1, 512, 4096, device=device, dtype=dtype),
        }

    return Case("Wan 14B, 832x480, 81 frames", "wan2.1_t2v_14B", build, inputs, 21 * 30 * 52, 5120)


def random_model(build: Callable[[], nn.Module], device: str, dtype: torch.dtype) -> nn.Module:
    """A model with random weights, created on its device."""
    with torch.device("meta"):
        model = build()
    if dtype != torch.float32:
        model = model.to(dtype)
    model = model.to_empty(device=device).eval()
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        nn.init.ones_(weight) if weight.ndim == 1 and "norm" in name else weight.normal_(0, 0.02)
    return model


def seconds_of(call: Call, device: str) -> float:
    """Processor time on a CPU, because machines are shared; wall time on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    _wait(device)
    began = clock()
    call()
    _wait(device)
    return clock() - began


def in_turn(calls: dict[str, Call], device: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of each call by name. Each repeat runs all of them, in random order."""
    for _ in range(3):  # warm-up: the first computed evaluation also checks the base
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, order = list(calls), random.Random(0)
    for _ in range(repeats):
        order.shuffle(names)  # so that no call always profits from caches filled by another
        for name in names:
            times[name].append(seconds_of(calls[name], device))
    return times


def measure(case: Case, device: str, dtype: torch.dtype, repeats: int) -> Result:
    model = random_model(case.build, device, dtype)
    inputs = case.inputs()
    timestep = torch.full((1,), 0.5, device=device, dtype=dtype)

    def plain() -> Any:
        return model(**inputs, timestep=timestep, return_dict=False)

    stack = find_stack(model, FAMILIES)

    def bare() -> Any:
        with stack._emptied():
            return plain()

    computing, skipping = _run_of(stack, retention=1.0), _run_of(stack, retention=0.0)
    measuring = Run(computing.decider, stack, calibrator=Calibrator())
    predicting = Run(FromThree(), stack)
    target = torch.device(device)

    def evaluate(run: Run) -> Any:
        run.begin(0.5, 0)
        return run.call("cond", "cond", target, plain)

    times = in_turn(
        {
            "plain": plain,
            "computed": lambda: evaluate(computing),
            "measured": lambda: evaluate(measuring),
            "skipped": lambda: evaluate(skipping),
            "predicted": lambda: evaluate(predicting),
            "bare": bare,
        },
        device,
        repeats,
    )
    assert computing.skipped == 0 and skipping.skipped == repeats + 2
    assert predicting.skipped == repeats and len(predicting.cache.sigmas("cond")) == 3

    def ratio(above: str, below: str) -> list[float]:
        return [a / b for a, b in zip(times[above], times[below], strict=True)]

    overhead = quantiles(ratio("computed", "plain"), n=4)
    held = skipping.cache.bytes_held
    speedup, ideal = loop(case, model, inputs, device)
    return Result(
        name=case.name,
        blocks=stack.depth,
        tokens=case.tokens,
        plain_seconds=median(times["plain"]),
        computed_over_plain=overhead[1],
        quartiles=(overhead[0], overhead[2]),
        measured_over_plain=median(ratio("measured", "plain")),
        skipped_over_plain=median(ratio("skipped", "plain")),
        predicted_over_plain=median(ratio("predicted", "plain")),
        skipped_over_bare=median(ratio("skipped", "bare")),
        bytes_held=held,
        bytes_expected=case.tokens * case.channels * dtype.itemsize,
        loop_speedup=speedup,
        loop_ideal=ideal,
    )


def loop(case: Case, model: nn.Module, inputs: dict[str, Any], device: str) -> tuple[float, float]:
    """The measured and the ideal speed-up of a whole Euler sampling."""
    preset = presets.load(case.preset)
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)

    def sample() -> None:
        scheduler.set_timesteps(preset.settings["steps"], device=device)
        scheduler.set_begin_index(0)
        latents = inputs["hidden_states"]
        for t in scheduler.timesteps:
            step = t.expand(1).to(latents.dtype)
            timestep = step / 1000 if case.preset == "flux" else step
            velocity = model(
                **{**inputs, "hidden_states": latents}, timestep=timestep, return_dict=False
            )[0]
            latents = scheduler.step(velocity, t, latents, return_dict=False)[0]

    uncached = seconds_of(sample, device)
    with magcache.apply(model, preset=preset, scheduler=scheduler) as applied:
        cached = seconds_of(sample, device)
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
    found: dict[str, dict[int, float]] = {"calibration": {}, "prior": {}}
    for source, grams in (("calibration", calibrated), ("prior", {})):
        for steps in (28, 50, 100):
            course = Course.of_steps(Trajectory(shifted_sigmas(steps, 3.0)))
            plan = partial(decider_for, Target(speedup=2), course, {}, grams, 3.0)
            found[source][steps] = 1000 * median(seconds_of(plan, "cpu") for _ in range(20))
    return found


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| model | one call | computed / plain (quartiles) | calibrating / plain "
        "| skipped / plain | predicted from 3 / plain "
        "| skipped / (embedders + head) | bytes a branch | sampling: measured / ideal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        same = "exactly" if r.bytes_held == r.bytes_expected else "NOT"
        lines.append(
            f"| {r.name} | {1000 * r.plain_seconds:.0f} ms "
            f"| {r.computed_over_plain:.3f} ({r.quartiles[0]:.3f}-{r.quartiles[1]:.3f}) "
            f"| {r.measured_over_plain:.3f} "
            f"| {r.skipped_over_plain:.4f} | {r.predicted_over_plain:.4f} "
            f"| {r.skipped_over_bare:.3f} "
            f"| {r.bytes_held:,} ({same} tokens x channels x dtype) "
            f"| {r.loop_speedup:.2f}x / {r.loop_ideal:.2f}x |"
        )
    return "\n".join(lines)


def machine(device: str) -> str:
    """The machine that the figures were measured on."""
    where = torch.cuda.get_device_name() if device != "cpu" else platform.processor() or "CPU"
    clock = "processor time" if device == "cpu" else "wall time"
    return f"{where}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), {clock}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    device = arguments.device
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    if device == "cpu":
        torch.set_num_threads(1)
    sizes = [(8, 16), (8, 32), (8, 48), (4, 32), (16, 32)]
    cases = [flux_case(depth, side, 2, device, dtype) for depth, side in sizes]
    if device == "cuda":
        cases += [flux_case(57, 64, 24, device, dtype), wan_14b_case(device, dtype)]
    results = []
    with torch.no_grad():
        for case in cases:
            results.append(measure(case, device, dtype, arguments.repeats))
            print(table(results[-1:]).splitlines()[-1], flush=True)
    planned = planning()
    figures = {
        "machine": machine(device),
        "results": [asdict(result) for result in results],
        "planning_ms": planned,
    }
    write_whole(f"overhead-{device}", figures)
    print(f"\n{machine(device)}\n\n{table(results)}\n")
    for source, times in planned.items():
        told = ", ".join(f"{steps} steps {ms:.0f} ms" for steps, ms in times.items())
        print(f"planning from a {source}: {told}")


if __name__ == "__main__":
    main()
