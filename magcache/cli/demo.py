"""The command `magcache demo`: runs the bundled emoji model with and without MagCache."""

import argparse
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import progress
from .values import MOST_STEPS, a_path, check_folder, whole

if TYPE_CHECKING:
    import numpy as np
    import torch
    from rich.table import Table

    from ..images import Difference
    from ..report import Report

STEPS = 28
CFG = 3.0
PRESET = "emoji"
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "moderate": [{"speedup": 2.0}, {"threshold": 0.12, "max_skip": 2}],
    "fast": [{"speedup": 2.8}, {"threshold": 0.24, "max_skip": 3}],
}
"""For each cost, a planned run and one by the published rule."""


def add_to(commands: Any) -> None:
    """Adds `demo` to the commands of the command line's parser."""
    parser = commands.add_parser("demo", help="sample the emoji model with and without MagCache")
    text = "folder to write to"
    parser.add_argument("--output", type=a_path, default=Path("demo-output"), help=text)
    parser.add_argument("--steps", type=whole(1, MOST_STEPS), default=STEPS)
    text = "print the figures as JSON instead"
    parser.add_argument("--json", action="store_true", help=text)
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of a missing torchvision
    import torch
    from rich.console import Console

    check_folder(arguments.output)
    torch.set_num_threads(1)  # such a small model is slower with more
    with progress.shown() as on_step:
        demo = run(on_step, arguments.steps)
    written = demo.write(arguments.output)
    if arguments.json:
        print(json.dumps(demo.figures(), indent=1))
    else:
        console = Console()
        console.print(demo.table())
        for report in demo.reports.values():
            console.print(f"{report.headline()}\n  {report.schedule}", highlight=False)
    for file in written:
        Console(stderr=True).print(f"wrote {file}", highlight=False)


@dataclass
class Row:
    """One way of sampling, and its result.

    Attributes:
        name: Name in the table and the picture.
        steps, computed, skipped: Sampler steps, computed and skipped evaluations.
        seconds: Wall time of the sampling.
        speedup: Seconds of the uncached run divided by these.
        difference: Difference from the uncached run; None for that run itself.
    """

    name: str
    steps: int
    computed: int
    skipped: int
    seconds: float
    speedup: float = 1.0
    difference: "Difference | None" = None

    def figures(self) -> dict[str, Any]:
        """As plain data; the infinite PSNR of equal images becomes None, for JSON."""
        data = asdict(self)
        if self.difference and math.isinf(self.difference.psnr):
            data["difference"]["psnr"] = None
        return data


@dataclass
class Demo:
    """The results of the demo: table, images (N, 32, 32, 3) of each row, and reports."""

    prompts: list[str]
    rows: list[Row]
    images: dict[str, "np.ndarray"]
    reports: dict[str, "Report"]

    def add(self, row: Row) -> None:
        """Adds a row whose images are there, and compares it with the first, uncached row."""
        from ..images import difference

        if self.rows:
            row.speedup = self.rows[0].seconds / row.seconds
            row.difference = difference(self.images[self.rows[0].name], self.images[row.name])
        self.rows.append(row)

    def figures(self) -> dict[str, Any]:
        """The table and each run's report as plain data."""
        return {
            "model": "emoji (FLUX architecture, 32x32)",
            "prompts": self.prompts,
            "cfg": CFG,
            "rows": [row.figures() for row in self.rows],
            "reports": {name: report.figures() for name, report in self.reports.items()},
        }

    def table(self) -> "Table":
        """The table for a terminal."""
        from rich import box
        from rich.table import Table

        title = f"{len(self.prompts)} emoji, 32x32, CFG 3; differences are from the uncached run"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in ("", "computed", "skipped", "seconds", "speed-up", "PSNR", "SSIM", "FLIP"):
            table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for row in self.rows:
            far = row.difference
            cells = [str(row.computed), str(row.skipped)]
            cells += [f"{row.seconds:.2f}", f"{row.speedup:.2f}x"]
            cells += [f"{far.psnr:.2f}", f"{far.ssim:.3f}", f"{far.flip:.3f}"] if far else []
            table.add_row(row.name, *cells)
        return table

    def write(self, folder: Path) -> list[Path]:
        """Writes comparison.png, a picture of each run's schedule, and demo.json."""
        from ..pictures import draw_rows

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


def run(on_step: progress.OnStep, steps: int = STEPS) -> Demo:
    """Samples the demo prompts uncached, with each setting, and with as few steps as each costs.

    The planned runs use a calibration made with another prompt.

    Raises:
        ValueError: `steps` is below 1.
        FileNotFoundError: The emoji model is missing.
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    import torch

    from ..emoji import image as emoji
    from ..hosts.diffusers import apply

    model = emoji.load()
    pipe: Any = model.pipe
    prompts = model.prompts("demo")
    demo = Demo(prompts, [], {}, {})

    def generate(name: str, count: int, prompts: list[str], seeds: list[int]) -> "torch.Tensor":
        def after(_pipe: Any, step: int, _t: Any, kept: dict[str, Any]) -> dict[str, Any]:
            on_step(name, step + 1, count)
            return kept

        on_step(name, 0, count)
        arguments = model.arguments(prompts, seeds, count, CFG)
        return emoji.to_images(pipe(**arguments, callback_on_step_end=after).images)

    def sample(name: str, count: int) -> float:
        began = time.perf_counter()
        images = generate(name, count, prompts, list(range(len(prompts))))
        seconds = time.perf_counter() - began
        demo.images[name] = images.permute(0, 2, 3, 1).numpy()
        return seconds

    with torch.no_grad():
        model.generate(prompts[:1], [0], steps=2)  # warm-up: the first call of a process is slow
        demo.add(Row("uncached", steps, steps, 0, sample("uncached", steps)))
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
                demo.add(Row(name, steps, report.computed, report.skipped, seconds))
            fewer = demo.rows[-1].computed
            plain = f"plain, {fewer} steps"
            demo.add(Row(plain, fewer, fewer, 0, sample(plain, fewer)))
    return demo
