"""Makes the prior: inner products of the trained models' outputs over the flow level.

    python -m tools.prior

Each model samples a few prompts uncached. Its outputs are converted to the velocity of the flow,
and the two branches to their mean and their difference (docs/prediction.md). The result is
magcache/curves/prior.json.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from rich.progress import track

from magcache.curves import GramCurve, MagnitudeCurve, prior, shifted_sigmas
from magcache.emoji import image, unet, video
from magcache.hosts.diffusers.outputs import level_of, velocity_of

STEPS, SHIFT, CFG, PROMPTS = 50, 2.0, 3.0, 8
LEVELS = shifted_sigmas(STEPS, SHIFT)
Record = Iterator[tuple[float, torch.Tensor]]


def main() -> None:
    """Records every model and writes the file."""
    torch.set_num_threads(1)
    makers: dict[str, Callable[[], Any]] = {
        "emoji": lambda: image.load(shift=SHIFT),
        "emoji-video": lambda: video.load(shift=SHIFT),
        "emoji-unet": unet.load,
    }
    members = {name: _member(make()) for name, make in track(makers.items(), "sampling")}
    made = {
        "by": "python -m tools.prior",
        "of": "mean and difference of the two branches' velocities",
        "steps": STEPS, "shift": SHIFT, "cfg": CFG, "prompts": PROMPTS,
    }  # fmt: skip
    levels = [round(level, 6) for level in LEVELS]
    text = json.dumps({"made": made, "levels": levels, "members": members}, indent=1)
    prior.PATH.write_text(_rows_on_lines(text) + "\n", encoding="utf-8")


def _member(model: Any) -> dict[str, Any]:
    prompts = model.prompts("calibration")[:PROMPTS]
    seeds = list(range(7, 7 + len(prompts)))
    levels, outputs = zip(
        *_recorded(model, model.arguments(prompts, seeds, STEPS, CFG)), strict=True
    )
    cond, uncond = torch.stack(outputs).double().chunk(2, 1)
    signals = {"mean": (cond + uncond) / 2, "difference": cond - uncond}
    scale = float(signals["mean"].flatten(1).norm(dim=1).mean())
    return {
        name: _told(levels, signal.flatten(1).numpy() / scale) for name, signal in signals.items()
    }


def _told(levels: tuple[float, ...], signal: np.ndarray) -> dict[str, Any]:
    """Norms and correlations, resampled at `LEVELS`, of a signal (T, entries) at `levels`."""
    norms = np.linalg.norm(signal, axis=1)
    unit = signal / norms[:, None]
    own = MagnitudeCurve(levels, tuple(np.log(norms)))
    matrix = GramCurve(own, np.clip(unit @ unit.T, -1, 1)).between(np.array(LEVELS))
    sizes = np.sqrt(np.diag(matrix))
    correlations = matrix / sizes / sizes[:, None]
    return {
        "log_norms": np.log(sizes).round(5).tolist(),
        "correlations": [row[:place].round(6).tolist() for place, row in enumerate(correlations)],
    }


def _recorded(model: Any, arguments: dict[str, Any]) -> list[tuple[float, torch.Tensor]]:
    """Flow level and velocity of each evaluation, cond before uncond, (2·prompts, ...)."""
    pipe, calls = model.pipe, []
    network = getattr(pipe, "transformer", None) or pipe.unet

    def keep(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
        sample = kwargs.get("hidden_states", args[0] if args else None)
        calls.append((sample, output[0]))

    handle = network.register_forward_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            pipe(**arguments)
    finally:
        handle.remove()
    sigmas = pipe.scheduler.sigmas[:-1].tolist()
    each = len(calls) // len(sigmas)
    together = [
        torch.cat(parts) for parts in zip(*[iter([o for _, o in calls])] * each, strict=True)
    ]
    recorded = []
    for sigma, (sample, _), output in zip(sigmas, calls[::each], together, strict=True):
        scale, shift = velocity_of(pipe.scheduler, sigma)
        velocity = output
        if shift:
            uncond, cond = (scale * output + shift * sample).chunk(2)  # batches are in this order
            velocity = torch.cat([cond, uncond])
        recorded.append((level_of(pipe.scheduler, sigma), velocity))
    return recorded


def _rows_on_lines(text: str) -> str:
    """JSON with each list of numbers on one line."""
    import re

    return re.sub(r"\[\s+([^\[\]]*?)\s+\]", lambda m: "[" + " ".join(m[1].split()) + "]", text)


if __name__ == "__main__":
    main()
