"""Compares first runs of four to eight steps in ComfyUI with plain sampling at the same cost.

    COMFYUI_PATH=~/ComfyUI path/to/its/python -m bench.few

Takes a quarter of an hour on a CPU. Results are kept in bench/results/few.jsonl. When all are
there, it writes docs/few-steps.md and its picture. With `--first 64` it only prints the tables, for
the prompts that choices are based on.
"""

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from magcache.decide.by_plan import fewest_worth
from magcache.pictures import draw_rows

from .figures import mean_tenth_least
from .kept import Kept
from .quality.comfyui import MODELS, Emoji, start_comfyui
from .quality.condition import Condition
from .quality.counting import one_thread
from .quality.first import first_run
from .quality.store import measured

PAGE = Path("docs/few-steps.md")
PICTURE = PAGE.with_suffix(".png")
COMPUTED: Mapping[int, Sequence[int]] = {8: (7, 6, 5, 4), 7: (6,), 6: (5, 4), 5: (4,), 4: (3,)}
WANTED = [(steps, count) for steps, counts in COMPUTED.items() for count in counts]


@dataclass(frozen=True)
class Case:
    """One model in one condition, for all numbers of steps."""

    model: str
    cfg: float
    shift: float | None
    sampler: str
    prompts: int

    def __str__(self) -> str:
        shift = "" if self.shift is None else f", shift {self.shift:g}"
        return f"{self.model}, CFG {self.cfg:g}{shift}, {self.sampler}"

    def loaded(self) -> Emoji:
        """The model in this condition."""
        return MODELS[self.model](Condition(8, self.cfg, self.shift, self.sampler))


CASES = [
    *(Case("emoji-turbo", 1.0, 3.0, s, 32) for s in ("euler", "res_multistep")),
    *(Case("emoji-turbo", 1.0, 1.0, s, 32) for s in ("euler", "res_multistep")),
    *(Case("emoji-turbo", 1.0, 3.0, s, 32) for s in ("lcm", "sa_solver")),
    Case("emoji", 3.0, 3.0, "euler", 32),
    Case("emoji", 3.0, 1.0, "euler", 32),
    Case("emoji-unet", 5.0, None, "euler", 16),
    Case("emoji-video", 3.0, 3.0, "euler", 8),
]


@dataclass(frozen=True)
class Row:
    """A case at a number of steps: PSNR, SSIM and FLIP of each prompt against the full run.

    Attributes:
        plan: The schedule, # computed and . skipped.
    """

    case: Case
    steps: int
    computed: int
    plan: str
    forecast: tuple[list[float], list[float], list[float]]
    plain: tuple[list[float], list[float], list[float]]


def rows(case: Case, known: Mapping[tuple[int, int], Row], first: int = 0) -> Iterator[Row]:
    """The rows of a case, on its prompts from `first` on. Measures those that are not known."""
    if known.keys() >= {*WANTED}:
        yield from (known[each] for each in WANTED)
        return
    model = case.loaded()
    prompts = model.prompts("test")[first : first + case.prompts]
    with first_run(case.model), torch.inference_mode():
        for steps, counts in COMPUTED.items():
            full, _ = _sampled(model, prompts, steps)
            for count in counts:
                if (steps, count) not in known:
                    asked = {"speedup": steps / count, "draft": True}
                    fast, plan = _sampled(model, prompts, steps, asked)
                    plain, _ = _sampled(model, prompts, count)
                    yield Row(case, steps, count, plan, measured(full, fast), measured(full, plain))
                else:
                    yield known[steps, count]


def _sampled(
    model: Emoji, prompts: Sequence[str], steps: int, asked: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, str]:
    """The frames, and the steps at which the model ran."""
    cached = model.cached("forecast", asked) if asked else model.cached("uncached", {})
    ran: list[float] = []

    def note(executor: Any, x: torch.Tensor, t: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        ran.append(float(t[0]))
        return executor(x, t, *args, **kwargs)

    cached.add_wrapper_with_key("diffusion_model", "note", note)
    frames = model.sample(cached, prompts, range(len(prompts)), steps)
    levels = model.cached("uncached", {}).get_model_object("model_sampling")
    times = [float(levels.timestep(sigma)) for sigma in model._levels(steps)[:-1]]
    return frames, "".join("#" if any(abs(t - r) < 1e-3 for r in ran) else "." for t in times)


def table(found: Sequence[Row]) -> Iterator[str]:
    yield "| steps | computed | plan | forecast | plain steps | SSIM | FLIP |"
    yield "|--:|--:|---|--:|--:|--:|--:|"
    for row in found:
        worth = row.computed == fewest_worth(row.steps)
        count = f"**{row.computed}**" if worth else str(row.computed)
        others = [f"{np.mean(row.forecast[at]):.3f}, {np.mean(row.plain[at]):.3f}" for at in (1, 2)]
        cells = [str(row.steps), count, f"`{row.plan}`", mean_tenth_least(row.forecast[0])]
        yield f"| {' | '.join([*cells, mean_tenth_least(row.plain[0]), *others])} |"


HEAD = """# Four to eight steps

**By itself, MagCache computes 6 of 8 or 7 steps, and all of 6 or fewer.** That is where it is
better than ordinary sampling with fewer steps, for every model that was tried. With `draft` it
skips more, and the result visibly differs.

The tables show each small model's first run in ComfyUI {version}, planned and predicted without
anything measured on that model (nor on the one that it was distilled from).

- **computed**: how many steps are computed; **bold** is what MagCache does by itself, the
  others are drafts. **plan**: `#` computed, `.` skipped. The last two are always computed:
  there distilled models and multistep samplers move most, and nothing comes behind that could
  correct an error.
- **forecast**: how close the result is to the run with all steps computed, as PSNR in dB: mean
  / 10th percentile / minimum over the test prompts; higher is closer.
- **plain steps**: the same for ordinary sampling with as many steps as are computed.
- **SSIM** and **FLIP** are means, the forecast's first. 1 and 0 are the same picture.

The limits were chosen with Euler's method on other prompts of every model (`--first 64`). Made
by `python -m bench.few`.

![Five pictures at 8 steps, 6 and 4 of 8 forecast, and 6 and 4 plain steps]({picture})

*The distilled emoji model with `res_multistep`, shift 3: the five prompts that 6 of 8 changes
most.*
"""


def page(found: Mapping[Case, Sequence[Row]], version: str) -> str:
    """The whole page."""
    parts = [HEAD.format(version=version, picture=PICTURE.name)]
    for case, own in found.items():
        parts += [f"## {case}, {case.prompts} prompts\n", *table(own), ""]
    return "\n".join(parts)


def draw() -> None:
    """Draws the prompts that the forecast changes most."""
    case = CASES[1]
    model = case.loaded()
    prompts = model.prompts("test")[: case.prompts]
    shown: dict[str, np.ndarray] = {}
    with first_run(case.model), torch.inference_mode():
        shown["8 steps"], _ = _sampled(model, prompts, 8)
        for count in (6, 4):
            asked = {"speedup": 8 / count, "draft": True}
            shown[f"{count} of 8"], _ = _sampled(model, prompts, 8, asked)
            shown[f"{count} steps"], _ = _sampled(model, prompts, count)
    psnr = measured(shown["8 steps"], shown["6 of 8"])[0]
    rows = {
        f"{prompts[at]}: {psnr[at]:.0f} dB": np.stack([each[at, 0] for each in shown.values()])
        for at in np.argsort(psnr)[:5]
    }
    draw_rows(rows, [*shown]).save(PICTURE)


def known(kept: Kept, case: Case) -> dict[tuple[int, int], Row]:
    """The rows of a case that were measured before."""
    found = {each: kept.get(key_of(case, *each)) for each in WANTED}
    return {at: Row(**{**told["row"], "case": case}) for at, told in found.items() if told}


def key_of(case: Case, steps: int, computed: int) -> str:
    return f"{case}, {case.prompts} prompts, {computed} of {steps}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--first", type=int, default=0, help="use other prompts, from this one on")
    first = parser.parse_args().first
    start_comfyui()
    one_thread()
    import comfyui_version

    logging.getLogger("magcache").setLevel(logging.WARNING)
    if first:
        for case in CASES:
            print(f"\n{case}", *table([*rows(case, {}, first)]), sep="\n", flush=True)
        return
    kept, found = Kept("few"), {}
    for case in CASES:
        found[case], before = [], known(kept, case)
        for row in rows(case, before):
            found[case].append(row)
            if (row.steps, row.computed) not in before:
                kept.add(key_of(case, row.steps, row.computed), row=asdict(row))
                print(case, [*table([row])][-1], flush=True)
    PAGE.write_text(page(found, comfyui_version.__version__), "utf-8")
    draw()
    print(f"written: {PAGE}, {PICTURE}")


if __name__ == "__main__":
    main()
