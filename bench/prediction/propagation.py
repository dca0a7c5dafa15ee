"""Measures how much of an error made at σ is left at the end, one evaluation at a time.

    python -m bench.prediction.propagation --model emoji --shift 1 3

One evaluation is predicted and all others are computed. The change at the end is divided by the
immediate change. There are two predictions: the previous residual, and the line through that one
and the third one before. The latter's error has another direction and a typical size for plans.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.quality.condition import Condition
from bench.quality.counting import one_thread
from bench.quality.subjects import SUBJECTS, Subject
from magcache.blocks import Residual, find_stack
from magcache.curves import guidance_shares
from magcache.hosts.diffusers.models import FAMILIES

from .lab import FIRST, arguments

BRANCHES = ("cond", "uncond")


@dataclass(frozen=True)
class Kept:
    """The error of one evaluation on one prompt.

    Attributes:
        left: Change at the end over the change in the step.
        weight: Change at the end over Δσ times the residual's relative error: the plan's weight.
    """

    left: float
    weight: float


class Loop:
    """Samples with Euler's method like the subject's pipeline, but from any evaluation on."""

    def __init__(self, subject: Subject, condition: Condition, prompts: int) -> None:
        pipe = subject.pipeline(condition)
        self._model, self._scale = pipe.transformer, condition.cfg
        self._stack = find_stack(self._model, FAMILIES)
        texts, seeds = subject.prompts[FIRST : FIRST + prompts], range(FIRST, FIRST + prompts)
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        hook = self._model.register_forward_pre_hook(
            lambda _module, args, kwargs: calls.append((args, dict(kwargs))), with_kwargs=True
        )
        pipe(**subject.arguments(texts, seeds, condition.steps, condition.cfg))
        hook.remove()
        self._calls = calls[: condition.branches]
        self._levels = [float(call[1]["timestep"].flatten()[0]) for call in calls]
        self._levels = [*self._levels[:: condition.branches], 0.0]
        sigmas = pipe.scheduler.sigmas.double()
        self.sigmas: list[float] = sigmas.tolist()
        self.start: torch.Tensor = calls[0][1]["hidden_states"]

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    def computed(self, x: torch.Tensor, step: int) -> tuple[torch.Tensor, list[Residual]]:
        """The guided velocity, and the residual of each branch."""
        pairs = [self._stack.compute(self._call(b, x, step)) for b in range(len(self._calls))]
        residuals = [residual for _, residual in pairs]
        return self._guided([output for output, _ in pairs]), cast(list[Residual], residuals)

    def skipped(self, x: torch.Tensor, step: int, residuals: Sequence[Residual]) -> torch.Tensor:
        """The guided velocity with given residuals instead of the blocks."""
        calls = [self._call(branch, x, step) for branch in range(len(self._calls))]
        return self._guided(
            [self._stack.skip(call, r) for call, r in zip(calls, residuals, strict=True)]
        )

    def moved(self, x: torch.Tensor, step: int, velocity: torch.Tensor) -> torch.Tensor:
        return x + (self.sigmas[step + 1] - self.sigmas[step]) * velocity

    def finished(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """The final sample, with all evaluations from `step` on computed."""
        for at in range(step, self.steps):
            x = self.moved(x, at, self.computed(x, at)[0])
        return x

    def relative_errors(self, guess: Sequence[Residual], true: Sequence[Residual]) -> torch.Tensor:
        """Relative error of each prompt's residuals, branches weighted like guidance does, (B,)."""
        shares = guidance_shares(BRANCHES[: len(true)], self._scale).values()
        squares = [
            share * (_norm(g[0] - t[0]) / _norm(t[0])).square()
            for share, g, t in zip(shares, guess, true, strict=True)
        ]
        return torch.stack(squares).sum(0).sqrt()

    def _call(self, branch: int, x: torch.Tensor, step: int) -> Any:
        args, kwargs = self._calls[branch]
        timestep = torch.full_like(kwargs["timestep"], self._levels[step])
        return lambda: self._model(*args, **{**kwargs, "hidden_states": x, "timestep": timestep})

    def _guided(self, outputs: Sequence[Any]) -> torch.Tensor:
        velocities = [output[0].float() for output in outputs]
        if len(velocities) == 1:
            return velocities[0]
        return velocities[1] + self._scale * (velocities[0] - velocities[1])


def measured(loop: Loop, told: str) -> dict[str, list[tuple[float, list[Kept]]]]:
    """(σ, errors of all prompts) for each evaluation that can be predicted, by prediction."""
    samples, known, velocities = [loop.start], [], []
    for step in range(loop.steps):
        velocity, residuals = loop.computed(samples[-1], step)
        velocities.append(velocity)
        known.append(residuals)
        samples.append(loop.moved(samples[-1], step, velocity))
    found: dict[str, list[tuple[float, list[Kept]]]] = {"reused": [], "line": []}
    for step in track(range(1, loop.steps), told):
        guesses = {"reused": known[step - 1]}
        if step >= 3:
            newest, older = loop.sigmas[step - 1], loop.sigmas[step - 3]
            slope = (loop.sigmas[step] - newest) / (newest - older)
            pairs = zip(known[step - 1], known[step - 3], strict=True)
            guesses["line"] = [(new[0] + slope * (new[0] - old[0]),) for new, old in pairs]
        for name, guess in guesses.items():
            velocity = loop.skipped(samples[step], step, guess)
            end = loop.finished(loop.moved(samples[step], step, velocity), step + 1)
            width = loop.sigmas[step] - loop.sigmas[step + 1]
            change, error = _norm(end - samples[-1]), loop.relative_errors(guess, known[step])
            left = change / (width * _norm(velocity - velocities[step]))
            weight = change / (width * error)
            kept = [Kept(float(a), float(b)) for a, b in zip(left, weight, strict=True)]
            found[name].append((loop.sigmas[step], kept))
    return found


def main() -> None:
    asked = arguments(__doc__).parse_args()
    one_thread()
    subject = SUBJECTS[asked.model]()
    for shift in asked.shift:
        condition = Condition(asked.steps, asked.cfg, shift)
        with torch.no_grad():
            loop = Loop(subject, condition, asked.prompts)
            found = measured(loop, f"{subject.name}, {condition}")
        table = Table(
            title=f"{subject.name}, {condition}: geometric mean of {asked.prompts} prompts"
        )
        for column in ("σ", "prediction", "left at the end", "weight, last = 1"):
            table.add_column(column, justify="right")
        for name, rows in found.items():
            last = _mean([kept.weight for kept in rows[-1][1]])
            for sigma, kept in rows[:-1:3] + rows[-1:]:
                left, weight = (_mean([getattr(k, a) for k in kept]) for a in ("left", "weight"))
                table.add_row(f"{sigma:.3f}", name, f"{left:.2f}", f"{weight / last:.2f}")
        Console(width=100).print(table)


def _norm(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten(1).norm(dim=1)


def _mean(values: Sequence[float]) -> float:
    return float(np.exp(np.log(values).mean()))


if __name__ == "__main__":
    main()
