"""The demonstration: the bundled emoji model with and without MagCache, side by side."""

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..emoji import image as emoji
from ..hosts.diffusers import apply
from ..images import Difference, difference
from ..pictures import draw_rows
from ..report import Report

STEPS = 28
CFG = 3.0
PRESET = "emoji"
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "moderate": [{"speedup": 2.0}, {"threshold": 0.12, "max_skip": 2}],
    "fast": [{"speedup": 2.8}, {"threshold": 0.24, "max_skip": 3}],
}
"""At each cost: a planned run, and one by the published rule."""


@dataclass
class Row:
    """One way of sampling, and what came out.

    Attributes:
        name: As shown in table and picture.
        steps, computed, skipped: Of the sampler, and of the model's evaluations.
        seconds: Wall time of the sampling.
        speedup: Seconds of the uncached run over these.
        difference: From the uncached run; None for that run itself.
    """

    name: str
    steps: int
    computed: int
    skipped: int
    seconds: float
    speedup: float = 1.0
    difference: Difference | None = None

    def figures(self) -> dict[str, Any]:
        """As plain data; the infinite PSNR of equal images, which JSON has not, is None."""
        data = asdict(self)
        if self.difference and math.isinf(self.difference.psnr):
            data["difference"]["psnr"] = None
        return data


@dataclass
class Demo:
    """What the demonstration has made: table, images (N, 32, 32, 3) a row, and reports."""

    prompts: list[str]
    rows: list[Row]
    images: dict[str, np.ndarray]
    reports: dict[str, Report]

    def figures(self) -> dict[str, Any]:
        """The table and each run's report as plain data."""
        return {
            "model": "emoji (FLUX architecture, 32x32)",
            "prompts": self.prompts,
            "cfg": CFG,
            "rows": [row.figures() for row in self.rows],
            "reports": {name: report.figures() for name, report in self.reports.items()},
        }

    def write(self, folder: Path) -> list[Path]:
        """Writes comparison.png, a picture of each run's schedule, and demo.json."""
        folder.mkdir(parents=True, exist_ok=True)
        comparison = folder / "comparison.png"
        draw_rows(self.images, self.prompts).save(comparison)
        pictures = [
            report.save_picture(folder / f"{name.replace(', ', '-').replace(' ', '-').lower()}.png")
            for name, report in self.reports.items()
        ]
        data = folder / "demo.json"
        data.write_text(json.dumps(self.figures(), indent=1), encoding="utf-8")
        return [comparison, *pictures, data]


Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Opens a progress bar of a name and a length, and gives what advances it."""


def _no_progress(_name: str, _steps: int) -> AbstractContextManager[Callable[[], None]]:
    return nullcontext(lambda: None)


def run(progress: Progress = _no_progress, steps: int = STEPS) -> Demo:
    """Samples the demo prompts uncached, with each setting, and with as few steps as each costs.

    The planned runs are made with a calibration of one prompt that is none of them.

    Raises:
        ValueError: `steps` is below 1.
        FileNotFoundError: The emoji model is missing.
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    model = emoji.load()
    pipe: Any = model.pipe
    prompts = model.prompts("demo")
    demo = Demo(prompts, [], {}, {})

    def generate(name: str, count: int, prompts: list[str], seeds: list[int]) -> torch.Tensor:
        with progress(name, count) as advance:

            def on_step(_pipe: Any, _i: int, _t: Any, kept: dict[str, Any]) -> dict[str, Any]:
                advance()
                return kept

            arguments = model.arguments(prompts, seeds, count, CFG)
            return emoji.to_images(pipe(**arguments, callback_on_step_end=on_step).images)

    def sample(name: str, count: int) -> float:
        began = time.perf_counter()
        images = generate(name, count, prompts, list(range(len(prompts))))
        seconds = time.perf_counter() - began
        demo.images[name] = images.permute(0, 2, 3, 1).numpy()
        return seconds

    def add(row: Row) -> None:
        if demo.rows:
            row.speedup = demo.rows[0].seconds / row.seconds
            row.difference = difference(demo.images["uncached"], demo.images[row.name])
        demo.rows.append(row)

    with torch.no_grad():
        model.generate(prompts[:1], [0], steps=2)  # the first call of a process is a slow one
        add(Row("uncached", steps, steps, 0, sample("uncached", steps)))
        with apply(pipe, calibrate=True) as applied:
            generate("calibration", steps, model.prompts("calibration")[:1], [1000])
            calibration = applied.calibration()
        for cost, ways in SETTINGS.items():
            for values in ways:
                planned = "speedup" in values
                name = f"MagCache {values['speedup']:g}x" if planned else f"rule, {cost}"
                source = {"calibration": calibration} if planned else {"preset": PRESET}
                with apply(pipe, **source, **values) as applied:
                    seconds = sample(name, steps)
                    report = applied.report()
                demo.reports[name] = report
                add(Row(name, steps, report.computed, report.skipped, seconds))
            fewer = demo.rows[-1].computed
            plain = f"plain, {fewer} steps"
            add(Row(plain, fewer, fewer, 0, sample(plain, fewer)))
    return demo
