"""Samples one model in one condition with many variants of planned prediction."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import magcache
from bench.kept import Kept
from bench.quality.condition import Condition
from bench.quality.subjects import SUBJECTS, Subject
from magcache.calibrate import SAMPLED, Calibrator, merge
from magcache.curves import Calibration, Trajectory, gram
from magcache.decide import Course, Mender, by_plan, decider_for, rule_of, search
from magcache.decide.correction import Correction
from magcache.images import psnr

asked_of, parallel = (
    importlib.import_module(f"magcache.hosts.diffusers.{name}") for name in ("asked", "parallel")
)
FOLDER = Path("bench-output/prediction")
BATCH = 8
FIRST = 64  # the prompts before it are for bench.quality, so choices must not use them

PROMPTS = {"emoji": 24, "emoji-video": 4}
MODELS = (*PROMPTS,)
CALIBRATED = [(model, of) for model in MODELS for of in sorted(MODELS, key=lambda n: n != model)]
"""Each model with its own calibration and with the other's."""
CONDITIONS = [Condition(28, cfg, shift) for cfg in (3.0, 1.0) for shift in (1.0, 3.0)]
COSTS = (7, 10, 14, 19)  # of 28

DEFAULT = "(1+4σ⁶)/(1+4σ)"
REMAINS: dict[str, search.Remains] = {
    DEFAULT: search.remains,
    "(1+σ⁶)/(1+4σ)": lambda s: (1 + s**6) / (1 + 4 * s),
    "(1+8σ⁶)/(1+4σ)": lambda s: (1 + 8 * s**6) / (1 + 4 * s),
    "(1+16σ⁶)/(1+4σ)": lambda s: (1 + 16 * s**6) / (1 + 4 * s),
    "(1+24σ⁶)/(1+4σ)": lambda s: (1 + 24 * s**6) / (1 + 4 * s),
    "(1+30σ³)/(1+4σ)": lambda s: (1 + 30 * s**3) / (1 + 4 * s),
    "1/(1+4σ)": lambda s: 1 / (1 + 4 * s),
    "1": np.ones_like,
}
"""Forms of the part of an error made at σ that remains at the end."""


_once = lru_cache  # keeping a lab alive is fine: it lasts as long as its study


@dataclass(frozen=True)
class Measured:
    """How a calibration is made. None takes the condition's value, "" the lab's own model."""

    steps: int | None = None
    shift: float | None = None
    prompts: int = 1
    entries: int = SAMPLED
    model: str = ""

    def __str__(self) -> str:
        return _changes(self)


@dataclass(frozen=True)
class Variant:
    """Planned prediction with one choice changed.

    Attributes:
        computed: Number of evaluations to compute.
        remains: A name in `REMAINS`.
        guided: Whether the branches' errors are weighted by the CFG scale.
        mends: Whether gaps are mended.
        rule: If set, use the rule instead of a plan, with K 6, retention 0.1 and the threshold
            that computes as many; residuals are "predicted", or "reuse".
        error: If set, plan for this expected error instead of `computed`.
        corrects: Whether the errors found so far correct the expected ones, see `Correction`.
        fewest: Evaluations that a plan computes at least. None takes what MagCache does.
    """

    computed: int
    keep: int = 2
    ridge: float = gram.RIDGE
    remains: str = DEFAULT
    guided: bool = True
    corrects: bool = False
    mends: bool = True
    measured: Measured = Measured()
    rule: str = ""
    error: float | None = None
    fewest: int | None = None

    def __str__(self) -> str:
        return _changes(self)


def _changes(settings: Measured | Variant) -> str:
    """What differs from the defaults, as a key of saved results."""
    values = [(each.name, getattr(settings, each.name), each.default) for each in fields(settings)]
    return ", ".join(f"{name} {value}" for name, value, default in values if value != default)


class Lab:
    """Samples unseen prompts of one model in one condition.

    Args:
        prompts: Number of prompts.
        multistep: Whether to sample with UniPC instead of Euler's method.
    """

    def __init__(
        self, subject: Subject, condition: Condition, prompts: int, *, multistep: bool = False
    ) -> None:
        self._subject, self.condition = subject, condition
        self._texts = subject.prompts[FIRST : FIRST + prompts]
        self._multistep = multistep
        self._name = f"{subject.name}-{condition.name}" + ("-unipc" if multistep else "")
        self._uncached = self._load_uncached()

    def psnr(self, variant: Variant) -> tuple[list[float], float]:
        """PSNR of each prompt against the uncached run, and the evaluations actually computed."""
        with self._applied(variant) as run:
            batch = 1 if variant.corrects else BATCH  # a correction must see one prompt only
            frames = self._sample(self._pipe, self.condition, batch)
            computed = run.report().computed / max(1, len(run.report().runs))
        return self._compared(frames), computed

    def plain(self, steps: int) -> list[float]:
        """PSNR of each prompt in plain sampling with `steps` steps."""
        condition = Condition(steps, self.condition.cfg, self.condition.shift)
        return self._compared(self._sample(self._pipe, condition))

    def errors(self, variant: Variant) -> list[float]:
        """The ratio to the expected error, of all predictions that could be compared."""
        ratios: list[float] = []

        def noted(_: Any, expected: float, found: float) -> None:
            ratios.append(round(found / expected, 3))

        observing = {"observes": True, "observe": noted}
        with patch.multiple(by_plan.PlanDecider, **observing), self._applied(variant):
            self._sample(self._pipe, self.condition, batch=1)
        return ratios

    @_once
    def calibration(self, measured: Measured) -> Calibration:
        """A calibration made as described; cached, because many variants use it."""
        if measured.model not in ("", self._subject.name):
            other = Lab(SUBJECTS[measured.model](), self.condition, 1)
            foreign = other.calibration(replace(measured, model=""))
            return replace(self.calibration(Measured()), branches=foreign.branches)
        own = self.condition
        condition = Condition(measured.steps or own.steps, own.cfg, measured.shift or own.shift)
        made = f"{condition.name}-{measured.prompts}-{measured.entries}"
        made += "-unipc" if self._multistep else ""
        path = FOLDER / "calibrations" / f"{self._subject.name}-{made}.json"
        if not path.exists():
            texts = self._subject.calibration_prompts[: measured.prompts]
            each = [self._calibrate(condition, text, measured.entries) for text in texts]
            (merge(each) if len(each) > 1 else each[0]).save(path)
        return Calibration.load(path)

    @cached_property
    def _pipe(self) -> Any:
        return self._pipeline(self.condition.shift)

    @_once
    def _pipeline(self, shift: float) -> Any:
        pipe = self._subject.pipeline(replace(self.condition, shift=shift))
        if self._multistep:
            pipe.scheduler = UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
            )
        return pipe

    def _load_uncached(self) -> np.ndarray:
        path = FOLDER / "uncached" / f"{self._name}-{len(self._texts)}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, self._sample(self._pipe, self.condition))
        return np.load(path)

    @contextmanager
    def _applied(self, variant: Variant) -> Iterator[Any]:
        calibration, steps = self.calibration(variant.measured), self.condition.steps
        asked = {"error": variant.error} if variant.error else {"speedup": steps / variant.computed}
        settings: dict[str, Any] = {**asked, "keep": variant.keep}
        if variant.rule:
            settings = self._rule(calibration, variant)
        if not variant.guided:
            settings["guidance"] = 1.0
        costs = partial(search.costs_of, remaining=REMAINS[variant.remains])
        with ExitStack() as changed:
            changed.enter_context(patch.object(by_plan, "costs_of", costs))
            weights = partial(gram.best_weights, ridge=variant.ridge)
            for module in (gram, search):
                changed.enter_context(patch.object(module, "best_weights", weights))
            if self._multistep:  # otherwise the run would not mend
                changed.enter_context(patch.object(asked_of, "is_euler", return_value=True))
            if variant.fewest:
                fewest = Mock(return_value=variant.fewest)
                changed.enter_context(patch.object(by_plan, "fewest_worth", fewest))
            if not variant.mends:
                changed.enter_context(patch.object(Mender, "factors", return_value=None))
            if not variant.corrects:
                changed.enter_context(patch.object(Correction, "add"))
            yield changed.enter_context(
                magcache.apply(self._pipe, calibration=calibration, **settings)
            )

    def _rule(self, calibration: Calibration, variant: Variant) -> dict[str, Any]:
        """The rule's settings with the lowest threshold that computes at most as many."""
        sigmas = self.condition.sigmas
        at = Course.of_steps(Trajectory(sigmas))
        settings: dict[str, Any] = {"max_skip": 6, "retention": 0.1}
        for threshold in np.geomspace(0.002, 3, 200):
            settings["threshold"] = float(threshold)
            rule = rule_of(calibration, **settings)
            made = decider_for(rule, at, calibration.curves).schedule()
            if made.computed <= variant.computed:
                break
        predict = None if variant.rule == "predicted" else variant.rule
        return {**settings, "predict": predict}

    def _calibrate(self, condition: Condition, text: str, entries: int) -> Calibration:
        pipe = self._pipeline(condition.shift)
        arguments = self._subject.arguments([text], [0], condition.steps, condition.cfg)
        calibrator = partial(Calibrator, sampled=entries)
        with (
            torch.no_grad(),
            patch.object(parallel, "Calibrator", calibrator),
            magcache.apply(pipe, calibrate=True) as run,
        ):
            pipe(**arguments)
            return run.calibration()

    def _sample(self, pipe: Any, condition: Condition, batch: int = BATCH) -> np.ndarray:
        frames = []
        for start in range(0, len(self._texts), batch):
            texts = self._texts[start : start + batch]
            seeds = range(FIRST + start, FIRST + start + len(texts))
            arguments = self._subject.arguments(texts, seeds, condition.steps, condition.cfg)
            with torch.no_grad():
                frames.append(self._subject.frames(pipe(**arguments)[0]))
        return np.concatenate(frames)

    def _compared(self, frames: np.ndarray) -> list[float]:
        pairs = zip(self._uncached, frames, strict=True)
        return [
            round(min(100.0, fmean(map(psnr, np.square(a - b).mean((1, 2, 3)).tolist()))), 2)
            for a, b in pairs
        ]


class Figures:
    """PSNR of each unseen prompt against the uncached run; samples what has not been saved.

    Args:
        sampled: Called before each sampling.
    """

    def __init__(self, sampled: Callable[[], None]) -> None:
        self._sampled = sampled
        self._kept = {name: Kept(f"prediction-{name}-{n}") for name, n in PROMPTS.items()}

    @classmethod
    @contextmanager
    def shown(cls) -> Iterator["Figures"]:
        """Yields figures that show when they sample."""
        counted = TextColumn("{task.completed} samplings")
        with Progress(SpinnerColumn(), TimeElapsedColumn(), counted, transient=True) as progress:
            task = progress.add_task("", total=None)
            yield cls(lambda: progress.advance(task))

    def of(
        self, model: str, condition: Condition, variant: Variant, *, multistep: bool = False
    ) -> tuple[list[float], float]:
        """PSNR of each prompt, and the evaluations actually computed."""

        def measured(lab: Lab) -> dict[str, Any]:
            psnr, computed = lab.psnr(variant)
            return {"psnr": psnr, "computed": computed}

        found = self._found(model, condition, multistep, str(variant), measured)
        return found["psnr"], found["computed"]

    def plain(self, model: str, condition: Condition, steps: int) -> list[float]:
        """PSNR of each prompt in plain sampling with `steps` steps."""

        def measured(lab: Lab) -> dict[str, Any]:
            return {"psnr": lab.plain(steps)}

        return self._found(model, condition, False, f"plain {steps}", measured)["psnr"]

    def errors(self, model: str, condition: Condition, variant: Variant) -> list[float]:
        """The ratio of each prediction's error to the expected one."""

        def measured(lab: Lab) -> dict[str, Any]:
            return {"ratios": lab.errors(variant)}

        return self._found(model, condition, False, f"errors, {variant}", measured)["ratios"]

    def _found(
        self, model: str, condition: Condition, multistep: bool, told: str,
        measured: Callable[[Lab], dict[str, Any]],
    ) -> Mapping[str, Any]:  # fmt: skip
        def sampled() -> dict[str, Any]:
            self._sampled()
            return measured(self._lab(model, condition, multistep))

        return self._kept[model].of(f"{condition}{', UniPC' if multistep else ''}: {told}", sampled)

    @_once
    def _lab(self, model: str, condition: Condition, multistep: bool) -> Lab:
        return Lab(SUBJECTS[model](), condition, PROMPTS[model], multistep=multistep)
