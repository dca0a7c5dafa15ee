"""Compares ways to predict a model's output: per branch, jointly, or as mean and difference.

Uncached runs of both small models are recorded. Then evaluations are removed from the record and
predicted from the last two that are left, with weights from inner products on other prompts, of the
model itself or of the other model. The figure is the distance by which all gaps of a schedule move
the guided sample, as -10·log10 of its square per entry; errors within a gap add up as vectors.
Nothing is sampled with predictions, so the propagation of errors is not included.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from rich.progress import track

from bench.kept import Kept
from bench.quality.condition import Condition
from bench.quality.subjects import SUBJECTS
from magcache.curves import best_weights, shifted_sigmas
from tools.tables import table

from .lab import CALIBRATED, FIRST

STEPS, CFG, SHIFTS, COMPUTED = 28, 3.0, (1.0, 3.0), (7, 10, 14)
PROMPTS = 8
KEEP = 2

# Each way: the signals as rows over (cond, uncond), the weights of the guided output over the
# signals, and whether a signal is also predicted from the past of the others.
Way = tuple[np.ndarray, Sequence[float], bool]
WAYS: Mapping[str, Way] = {
    "each branch by itself": (np.eye(2), (CFG, 1 - CFG), False),
    "each from both branches": (np.eye(2), (CFG, 1 - CFG), True),
    "mean and difference": (np.array([[0.5, 0.5], [1, -1]]), (1, CFG - 0.5), False),
    "uncond and difference": (np.array([[0, 1], [1, -1]]), (1, CFG), False),
    "the guided output": (np.array([[CFG, 1 - CFG]]), (1,), False),
}


def tables() -> dict[str, str]:
    kept = Kept("outputs")

    def cell(title: str, name: str, source: str) -> str:
        found: list[float] = []
        for shift in SHIFTS:
            key = f"{name}, shift {shift:g}, {title}, from {source}"
            gains = kept.of(
                key, lambda shift=shift: {"dB": _figures(WAYS[title], name, source, shift)}
            )
            found += gains["dB"]
        return f"{np.mean(found):.1f}"

    rows = [
        [way, *(cell(way, *column) for column in CALIBRATED)] for way in track(WAYS, "predicting")
    ]
    head = [f"{n}, {'its own' if n == source else 'the other'}" for n, source in CALIBRATED]
    return {"outputs": table(["dB", *head], rows, len(head))}


def _figures(way: Way, name: str, source: str, shift: float) -> list[float]:
    """The figure for each number of computed evaluations."""
    truth, known = recorded(name, shift, True), recorded(source, shift, False)
    return [round(moved(way, truth, known, shift, computed), 2) for computed in COMPUTED]


@cache
def recorded(name: str, shift: float, unseen: bool) -> np.ndarray:
    """The model's outputs in uncached runs, (evaluations, 2 branches, prompts, entries)."""
    subject, condition = SUBJECTS[name](), Condition(STEPS, CFG, shift)
    if unseen:
        prompts, first = subject.prompts[FIRST : FIRST + PROMPTS], 100
    else:
        prompts, first = subject.calibration_prompts[:PROMPTS], 7
    pipe, outputs = subject.pipeline(condition), []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        outputs.append(output[0].flatten(1).double().numpy())

    seeds = [*range(first, first + len(prompts))]
    handle = pipe.transformer.register_forward_hook(keep)
    try:
        with torch.no_grad():
            pipe(**subject.arguments(prompts, seeds, condition.steps, condition.cfg))
    finally:
        handle.remove()
    return np.stack(outputs).reshape(condition.steps, 2, len(prompts), -1)


def schedule(computed: int) -> list[int]:
    """Places of the computed evaluations: the first two, and the others evenly spaced."""
    return [0, *np.linspace(1, STEPS - 1, computed - 1).round().astype(int).tolist()]


def moved(way: Way, truth: np.ndarray, known: np.ndarray, shift: float, computed: int) -> float:
    """How far the gaps move the sample, in dB, mean over prompts.

    Args:
        way: How the output is predicted.
        truth: The record that evaluations are removed from.
        known: The record that the weights are computed from.
        shift: Shift of the noise levels.
        computed: Number of computed evaluations.
    """
    rows, shares, across = way
    sigmas = [*shifted_sigmas(STEPS, shift), 0.0]
    signals, learned = (np.einsum("sb,tbnd->tsnd", rows, each) for each in (truth, known))
    square = np.zeros(truth.shape[2])
    for held, gap in _gaps(schedule(computed)):
        error: Any = 0.0
        for place in gap:
            step = sigmas[place] - sigmas[place + 1]
            for signal, share in enumerate(shares):
                others = range(len(rows)) if across else [signal]
                used = [(at, other) for other in others for at in held]
                vectors = np.stack([*(learned[one] for one in used), learned[place, signal]])
                gram = np.einsum("and,bnd->ab", vectors, vectors)
                weights = best_weights(gram)[0]
                predicted = sum(w * signals[one] for w, one in zip(weights, used, strict=True))
                error = error + step * share * (signals[place, signal] - predicted)
        square += np.square(error).mean(-1)
    return float(-10 * np.log10(square).mean())


def _gaps(kept: Sequence[int]) -> Iterator[tuple[list[int], range]]:
    """Each gap, with the places that it is predicted from."""
    for number, (place, following) in enumerate(zip(kept, [*kept[1:], STEPS], strict=True)):
        if following > place + 1:
            yield list(kept[max(0, number + 1 - KEEP) : number + 1]), range(place + 1, following)
