"""The command `magcache measure`: measures what MagCache gains on a diffusers pipeline."""

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import progress
from .pipelines import BUNDLED, PROMPTS, Pipeline, add_pipeline, check, prepared, prompts_of
from .signals import Ended
from .values import MOST_STEPS, a_path, check_folder, given, whole

if TYPE_CHECKING:
    import torch

    from ..measure import Measurement, Sampled, Way

_WARM_UP = 2  # steps
_NOT_ASKED = ("run", "extra", "output")  # options that do not affect the result


def add_to(commands: Any) -> None:
    """Adds `measure` to the commands of the command line's parser."""
    text = "measure how much faster MagCache makes a model, and how close the results are"
    parser = commands.add_parser("measure", help=text)
    text = f"a diffusers pipeline, as a folder or a name on the Hub; or {', '.join(BUNDLED)}"
    parser.add_argument("model", type=given, help=text)
    text = f"may be repeated; default {len(PROMPTS)} of MagCache's own"
    parser.add_argument("--prompt", action="append", help=text)
    parser.add_argument("--steps", type=whole(1, MOST_STEPS), default=28, help="default 28")
    text = "speeds to measure, default 1.5,2,3"
    parser.add_argument("--speeds", type=_speeds, default="1.5,2,3", help=text)
    add_pipeline(parser)
    text = "folder for the picture and the text"
    parser.add_argument("--output", type=a_path, default=Path("measure-output"), help=text)
    parser.set_defaults(run=_measure)


def _speeds(text: str) -> list[float]:
    from ..measure import speeds_of

    try:
        return speeds_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _measure(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of a missing torchvision
    from ..measure import check_steps

    check_steps(arguments.steps)
    check_folder(arguments.output)
    check(arguments)
    _generate(arguments)


def _generate(arguments: argparse.Namespace) -> None:
    import torch

    from ..curves import home
    from ..measure import begun, measure

    if arguments.model in BUNDLED:
        torch.set_num_threads(1)  # such small models are slower with more
    prompts = arguments.prompt or prompts_of(arguments.model, "demo", len(PROMPTS))
    subject = _Generations(prepared(arguments), prompts, arguments)
    asked = {name: str(v) for name, v in vars(arguments).items() if name not in _NOT_ASKED}
    about = subject.about()
    results = begun(home() / "measure", about, [about, asked, prompts, subject.identity()])
    results.about.setdefault("learned before", subject.known())
    try:
        with progress.shown() as on_step:
            found = measure(subject, arguments.speeds, results, on_step)
    except Ended as ended:
        ended.kept = f"{len(results.sampled)} runs are kept, run the same command again to go on"
        raise
    _write(found, arguments.output)


def _write(found: "Measurement", folder: Path) -> None:
    from ..measure import written

    text = found.text()
    file, drawn = written(text, found.picture(), folder, "measured")
    if found.complete:
        found.results.finish()
    print(text)
    print(f"wrote {file} and {drawn}")


class _Generations:
    """See `magcache.measure.Subject`: each sample is a prompt with its own seed."""

    def __init__(
        self, pipeline: Pipeline, prompts: list[str], arguments: argparse.Namespace
    ) -> None:
        self.pipeline = pipeline
        self.prompts = prompts
        self.arguments = arguments
        self.steps: int = arguments.steps
        self.samples = len(prompts)
        pipe = pipeline.pipe
        self.device: torch.device = getattr(pipe, "_execution_device", None) or pipe.device

    def about(self) -> dict[str, str]:
        """What is measured, on what and how, for people to read."""
        import diffusers

        from ..measure import environment, size_of

        pipe, models = self.pipeline.pipe, self._models
        classes = " and ".join(dict.fromkeys(type(model).__name__ for model in models))
        size = size_of(*models)
        dtype = str(models[0].dtype).removeprefix("torch.")
        offload = ", offloaded" if self.arguments.offload else ""
        told = [type(pipe.scheduler).__name__, f"{self.steps} steps"]
        told += [f"CFG {self.pipeline.cfg:g}"] if self.pipeline.cfg is not None else []
        told += [f"shift {self.arguments.shift:g}"] if self.arguments.shift is not None else []
        return {
            **environment(f"diffusers {diffusers.__version__}", self.device),
            "model": f"{type(pipe).__name__}, {classes}, {size}, {dtype}{offload}",
            "sampling": ", ".join(told),
            "samples": f"{self.samples} prompts" if self.samples > 1 else "one",
        }

    def identity(self) -> dict[str, Any]:
        """The model's identity, as plain data."""
        return asdict(self._notebook.identity)

    def known(self) -> str:
        """What MagCache has learned about the model so far."""
        from ..measure import known

        return known(self._notebook.read().runs)

    def warm_up(self) -> None:
        """See `magcache.measure.Subject`."""
        self._generate(0, _WARM_UP)

    def sample(
        self, way: "Way", number: int, on_step: Callable[[int], None]
    ) -> tuple["torch.Tensor", "Sampled"]:
        """See `magcache.measure.Subject`; times the whole call of the pipeline."""
        import magcache

        from ..measure import Sampled, clocked

        def work() -> Any:
            return self._generate(number, way.steps, on_step)

        if way.speedup is None:
            found, seconds, peak = clocked(self.device, work)
            return self._output(found), Sampled(seconds, peak)
        with magcache.apply(self.pipeline.pipe, speedup=way.speedup) as applied:
            found, seconds, peak = clocked(self.device, work)
            report = applied.report()
        if not report.evaluations:
            why = "; ".join(report.warnings) or "the pipeline never called its model"
            raise ValueError(f"there is nothing to measure, MagCache skips nothing here: {why}")
        return self._output(found), Sampled(seconds, peak, report.computed, report.evaluations)

    def images(self, output: "torch.Tensor") -> "torch.Tensor":
        """See `magcache.measure.Subject`."""
        return output.float() / 255

    def freed(self) -> None:
        """See `magcache.measure.Subject`."""
        import gc

        import torch

        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _generate(
        self, number: int, steps: int, on_step: Callable[[int], None] | None = None
    ) -> Any:
        import torch

        with torch.no_grad():
            seed = self.arguments.seed + number
            return self.pipeline.generate(self.prompts[number], seed, steps, on_step)

    def _output(self, found: Any) -> "torch.Tensor":
        """The images with 8 bits per channel, as in a file."""
        import torch

        return (self.pipeline.images(found).float() * 255).round().to(torch.uint8)

    @property
    def _models(self) -> list[Any]:
        from ..hosts.diffusers import models_of

        try:
            return models_of(self.pipeline.pipe, at_output=True)
        except TypeError as error:
            raise ValueError(f"there is nothing to measure: {error}") from error

    @property
    def _notebook(self) -> Any:
        from ..hosts.diffusers import notebook_of

        return notebook_of(self._models)
