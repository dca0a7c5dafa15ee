"""The model's output as what is cached: a skipped call runs nothing of the model."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from .stack import Call, Mend, Residual


class Place(Protocol):
    """Where residuals are taken from, and put back.

    Attributes:
        problem: Why the last computed call gave no residual, or None.
    """

    problem: str | None

    def plain(self, call: Call) -> Any:
        """Runs the model as it is and takes nothing."""
        ...

    def compute(self, call: Call, mend: Mend | None = None) -> tuple[Any, Residual | None]:
        """Runs the model; its output, and the residual, None where none could be taken."""
        ...

    def skip(self, call: Call, residual: Residual) -> Any:
        """The output that follows from a residual."""
        ...

    def forget_bases(self) -> None:
        """Has what is known of the model's inputs checked anew."""
        ...


class OutputCall:
    """One call of a model, and how its output and the cached signals follow from each other.

    Args:
        forward: The call, arguments bound.
        signals: Makes the signals from the output.
        output: Makes the output from the signals.
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
    """The output of a model: nothing of it is run in a skipped call. Takes `OutputCall`s."""

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
        """There are none."""


def signal_names(branches: int) -> list[tuple[str, int]]:
    """The signals of so many branches, each with a number: their mean, then differences."""
    return [("mean", 0), *(("difference", number) for number in range(1, branches))]


def signals_of(velocities: Sequence[torch.Tensor]) -> Residual:
    """The branches' mean, and each one's difference from the last.

    They change at different speeds, so predicting them by themselves is better than predicting
    each branch (docs/prediction.md).
    """
    *others, last = velocities
    mean = torch.stack([*velocities]).mean(0) if others else last
    return (mean, *(each - last for each in others))


def velocities_of(signals: Residual) -> list[torch.Tensor]:
    """The branches that have these signals, see `signals_of`."""
    last, *differences = signals
    for difference in differences:
        last = last - difference / len(signals)
    return [*(last + difference for difference in differences), last]


class Path:
    """Where Euler's method would be by now, with the denoised latents that a sampler was given.

    What a sampler does otherwise, noise that it draws or what a multistep method adds, is in its
    own latent and not here. So velocities that are taken from here go on evenly, and what is
    predicted is the denoised latent without that noise (docs/prediction.md).

    Attributes:
        x: The latent here; None before the first evaluation.
    """

    def __init__(self) -> None:
        self.x: torch.Tensor | None = None
        self._level = 0.0
        self._denoised: torch.Tensor | None = None

    def begin(self, x: torch.Tensor, level: float) -> None:
        """An evaluation of a sampler's latent begins, at a level that x is x₀ + level·velocity."""
        if self.x is None or self._denoised is None or not self._level:
            self.x = x.clone()
        else:
            step = (level - self._level) / self._level
            self.x = self.x + step * (self.x - self._denoised)
        self._level, self._denoised = level, None

    def end(self, denoised: torch.Tensor) -> None:
        """It has given the sampler a denoised latent."""
        self._denoised = denoised

    def instead_of(self, x: torch.Tensor) -> torch.Tensor:
        """The latent here, or `x` itself where that is of another shape."""
        return self.x if self.x is not None and self.x.shape == x.shape else x
