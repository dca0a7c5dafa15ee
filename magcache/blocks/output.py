"""Caching at the model's output: a skipped call runs no part of the model."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from .stack import Call, Mend, Residual

_STAGES = 3  # how many evaluations back a sampler may return


class Place(Protocol):
    """Where residuals are taken and added back: the block stack or the model's output.

    Attributes:
        problem: Why the last computed call gave no residual, or None.
    """

    problem: str | None

    def plain(self, call: Call) -> Any:
        """Runs the model without taking a residual."""
        ...

    def compute(self, call: Call, mend: Mend | None = None) -> tuple[Any, Residual | None]:
        """Runs the model; returns its output and the residual, or None if there is none."""
        ...

    def skip(self, call: Call, residual: Residual) -> Any:
        """The model's output, made from a residual."""
        ...

    def forget_bases(self) -> None:
        """Makes the next computed call check the model's inputs again."""
        ...


class OutputCall:
    """One call of a model, with the conversions between its output and the cached signals.

    Args:
        forward: The call, with its arguments bound.
        signals: Converts the output to signals.
        output: Converts signals to the output.
    """

    def __init__(
        self,
        forward: Callable[[], Any],
        signals: Callable[[Any], Residual],
        output: Callable[[Residual], Any],
    ) -> None:
        self._forward = forward
        self.signals = signals
        self.output = output

    def __call__(self) -> Any:
        return self._forward()


class ModelOutput:
    """Caches at the output of a model. Its calls must be `OutputCall`s."""

    def __init__(self) -> None:
        self.problem: str | None = None

    def plain(self, call: Call) -> Any:
        """See `Place`."""
        return call()

    def compute(self, call: Call, mend: Mend | None = None) -> tuple[Any, Residual | None]:
        """See `Place`."""
        assert isinstance(call, OutputCall)
        output = call()
        with torch.no_grad():
            signals = call.signals(output)
            if mend is not None:
                mended = [signal + mend(place, signal) for place, signal in enumerate(signals)]
                output = call.output(tuple(mended))
        return output, signals

    def skip(self, call: Call, residual: Residual) -> Any:
        """See `Place`."""
        assert isinstance(call, OutputCall)
        return call.output(residual)

    def forget_bases(self) -> None:
        """Does nothing: an output has no bases."""


def signal_names(branches: int) -> list[tuple[str, int]]:
    """Names and numbers of the signals of `branches` branches: their mean, then differences."""
    return [("mean", 0), *(("difference", number) for number in range(1, branches))]


def signals_of(velocities: Sequence[torch.Tensor]) -> Residual:
    """The mean of the branches, and the difference of each from the last one.

    They change at different speeds, so predicting them is better than predicting the branches
    (docs/prediction.md).
    """
    *others, last = velocities
    mean = torch.stack([*velocities]).mean(0) if others else last
    return (mean, *(each - last for each in others))


def velocities_of(signals: Residual) -> list[torch.Tensor]:
    """The branches' velocities, the inverse of `signals_of`."""
    last, *differences = signals
    for difference in differences:
        last = last - difference / len(signals)
    return [*(last + difference for difference in differences), last]


class Path:
    """The latent that Euler's method would have reached with the same denoised latents.

    The sampler's own latent also contains the noise that it draws and the terms of a multistep
    method; this one does not. So velocities taken from here change smoothly, and the prediction is
    of the denoised latent without that noise (docs/prediction.md).

    Attributes:
        x: The current latent; None before the first evaluation.
    """

    def __init__(self) -> None:
        self.x: torch.Tensor | None = None
        self._level = 0.0
        self._denoised: torch.Tensor | None = None
        self._past: deque[tuple[float, torch.Tensor]] = deque(maxlen=_STAGES)

    def begin(self, x: torch.Tensor, level: float) -> None:
        """Starts an evaluation of the sampler's latent x = x₀ + level·velocity.

        A method of several stages may go back up to a level where it was, and so does the path.
        """
        if self.x is None or self._denoised is None or not self._level:
            self.x = x.clone()
        elif level > self._level and (before := self._at(level)) is not None:
            self.x = before
        else:
            step = (level - self._level) / self._level
            self.x = self.x + step * (self.x - self._denoised)
        self._level, self._denoised = level, None
        self._past.append((level, self.x))

    def end(self, denoised: torch.Tensor) -> None:
        """Ends the evaluation with the denoised latent that the sampler received."""
        self._denoised = denoised

    def instead_of(self, x: torch.Tensor) -> torch.Tensor:
        """The current latent, or `x` itself if its shape differs."""
        return self.x if self.x is not None and self.x.shape == x.shape else x

    def _at(self, level: float) -> torch.Tensor | None:
        """Where the path last was at a level, among the last few evaluations."""
        past = (x for at, x in reversed(self._past) if math.isclose(at, level, rel_tol=1e-5))
        return next(past, None)
