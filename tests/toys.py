"""Models small enough to check by hand: what each block, and each head, does to the tokens."""

from collections.abc import Iterable, Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from magcache.blocks.stack import BlockStack, Call
from magcache.curves.magnitude import MagnitudeCurve, Trajectory
from magcache.decide import Course, Held, Holding, Rule, RuleDecider, Schedule, decider_for
from magcache.run import Run, Storage

CPU = torch.device("cpu")


class Double(nn.Module):
    """2x, and how often it was called."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 2 * x


class DoubleInPlace(Double):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.mul_(2)


class Tenfold(nn.Module):
    """A head: 10x."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * x


class Toy(nn.Module):
    """Three blocks of 2x and a head of 10x: 80x with the blocks, 10x without, residual 7x."""

    def __init__(self, block: type[Double] = Double) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([block() for _ in range(3)])
        self.head: nn.Module = Tenfold()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def toy_stack(module: nn.Module) -> BlockStack:
    return BlockStack(module, ["blocks"], ["head"])


_dry: "WeakKeyDictionary[BlockStack, int]" = WeakKeyDictionary()
_dry_call = BlockStack._dry_call


def _counted(stack: BlockStack, call: Call) -> list[Tensor] | None:
    _dry[stack] = dry_calls(stack) + 1
    return _dry_call(stack, call)


BlockStack._dry_call = _counted


def dry_calls(stack: BlockStack) -> int:
    """How many calls a stack has made only to measure the base."""
    return _dry.get(stack, 0)


def block_calls(module: nn.Module) -> int:
    return sum(block.calls for block in module.modules() if isinstance(block, Double))


def tokens(value: float = 1.0, count: int = 2, channels: int = 3, batch: int = 1) -> Tensor:
    return torch.full((batch, count, channels), float(value))


def even(steps: int) -> Trajectory:
    """σ = 1, 1 - 1/steps, ..., 1/steps."""
    return Trajectory(tuple(1 - step / steps for step in range(steps)))


def flat_curve() -> MagnitudeCurve:
    """Every ratio is 1: nothing but `max_skip` and `retention` asks for a computed evaluation."""
    return MagnitudeCurve((1.0, 0.0), (0.0, 0.0))


def decider_of(
    rule: Rule, curves: Mapping[str, MagnitudeCurve], trajectory: Trajectory
) -> RuleDecider:
    """Decides a run of one evaluation a step by the rule."""
    return decider_for(rule, Course.of_steps(trajectory), curves)


def scheduled(
    rule: Rule,
    curves: Mapping[str, MagnitudeCurve],
    trajectory: Trajectory,
    sigmas: Sequence[float] | None = None,
) -> Schedule:
    """What the rule computes and skips, in a run of a whole trajectory or at some σ of it."""
    return decider_for(rule, Course.of_steps(trajectory, sigmas), curves).schedule()


def held(curves: Iterable[str], *sigmas: float, room: int = 3) -> Holding:
    """A cache that holds the same of a branch for each curve."""
    return {name: Held((name,), sigmas, room) for name in curves}


def toy_run(
    module: nn.Module | None = None,
    steps: int = 10,
    *,
    threshold: float = 0.1,
    max_skip: int = 2,
    retention: float = 0.0,
    storage: Storage | None = None,
    label: str = "toy",
) -> Run:
    """A run that computes one evaluation and skips two, over and over."""
    rule = Rule(threshold, max_skip, retention)
    decider = decider_for(rule, Course.of_steps(even(steps)), {"cond": flat_curve()})
    return Run(decider, toy_stack(Toy() if module is None else module), storage, label=label)
