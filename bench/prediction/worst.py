"""Shows the prompts that forecasting changes most, and which gaps are the cause.

    python -m bench.prediction.worst --model emoji --shift 1

Each is a first run, with a prior that does not include the model. Writes docs/worst-MODEL.png with
a row per prompt, and prints the PSNR of each prompt with one gap after another computed.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.quality.counting import quiet
from magcache.pictures import draw_rows

from .forecast import MODELS, Lab, Planned, psnr, sampled, subject_of

WORST = 5
SHARES = (1 / 4, 10 / 28)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="emoji", choices=[*MODELS])
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--shift", type=float, default=1.0)
    parser.add_argument("--prompts", type=int, default=32)
    asked = parser.parse_args()
    quiet()
    lab = Lab(asked.model, 28, asked.cfg, asked.shift, "euler", asked.prompts, first=0)
    counts = [round(share * lab.steps) for share in SHARES]
    plans = [lab.plan(count) for count in counts]
    images = [lab.images(plan=plan) for plan in plans]
    plain = [lab.images(levels=subject_of(lab.name).levels(n, lab.shift)) for n in counts]
    found = [psnr(each, lab.reference) for each in images]
    worst = [int(place) for place in np.argsort(found[0])[:WORST]]
    prompts = subject_of(lab.name).model.prompts("test")
    shown = [lab.reference, *itertools.chain(*zip(images, plain, strict=True))]
    titles = ["all computed"]
    for count in counts:
        titles += [f"forecast, {count} of 28", f"{count} plain steps"]
    rows = {
        f"{prompts[at]}: {found[0][at]:.0f}, {found[1][at]:.0f} dB": [
            _picture(i[at]) for i in shown
        ]
        for at in worst
    }
    path = Path(f"docs/worst-{lab.name}.png")
    draw_rows({name: np.stack(pictures) for name, pictures in rows.items()}, titles).save(path)
    console = Console(width=170)
    for count, plan in zip(counts, plans, strict=True):
        console.print(_gaps(lab, plan, worst, f"{lab.told}, {count} computed"))
    console.print(f"written: {path}")


def _picture(image: torch.Tensor) -> np.ndarray:
    """An image (H, W, 3), or the middle frame of a clip."""
    frame = image[:, image.shape[1] // 2] if image.ndim == 4 else image
    return frame.permute(1, 2, 0).numpy()


def _gaps(lab: Lab, plan: Planned, worst: Sequence[int], title: str) -> Table:
    """A table of the PSNR with one gap after another computed as well."""
    subject = subject_of(lab.name)
    prompts = [subject.model.prompts("test")[at] for at in worst]
    table = Table("computed as well", *prompts, title=title)
    reference = lab.reference[worst]
    for name, chosen in _filled(plan.chosen):
        changed = replace(plan, chosen=chosen)
        latents = sampled(subject, prompts, worst, lab.levels, lab.cfg, changed)
        found = psnr(subject.model.decode(latents), reference)
        table.add_row(name, *(f"{each:.1f}" for each in found))
    return table


def _filled(chosen: Sequence[bool]) -> Iterator[tuple[str, list[bool]]]:
    yield "nothing", list(chosen)
    for skipped, places in itertools.groupby(range(len(chosen)), lambda place: not chosen[place]):
        if skipped:
            gap = list(places)
            filled = [each or place in gap for place, each in enumerate(chosen)]
            yield "evaluations " + ", ".join(str(place + 1) for place in gap), filled


if __name__ == "__main__":
    main()
