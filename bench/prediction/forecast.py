"""Samples the small models with forecasts, in one plain loop that uses the flow velocity.

Curves are the model's own, or "prior": the mean of the other models' curves, or "learned": the
prior corrected by three accelerated runs. All are from calibration prompts, at 50 levels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch

from bench.kept import Kept
from bench.quality.first import unseen
from magcache.blocks import find_stack
from magcache.curves import (
    GramCurve,
    Learned,
    MagnitudeCurve,
    best_weights,
    guidance_shares,
    prior,
    shifted_sigmas,
)
from magcache.decide import Mender, best_schedule, costs_of
from magcache.decide.search import Costs, hedged_schedule
from magcache.emoji import image, turbo, unet, video
from magcache.hosts.diffusers.models import FAMILIES

from .lab import DEFAULT, FOLDER, REMAINS

BATCH = 16
FIRST = 64  # the prompts before it are for published figures, so choices must not use them
MEASURED = shifted_sigmas(50, 2.0)
CALIBRATION = 8  # prompts
KEEP = 2
Outputs = list[torch.Tensor]
"""The velocity of each branch, cond first, (B, ...)."""


class Emoji:
    """The emoji model, as a velocity at a flow level."""

    library: Any = image
    name = "emoji"
    x0_plus_noise = False

    def __init__(self) -> None:
        self.model: Any = self.library.load()
        self.network = self.model.pipe.transformer.eval()
        self.stack = find_stack(self.network, FAMILIES)

    def levels(self, steps: int, shift: float) -> np.ndarray:
        """Flow levels of a run, including its end, (steps + 1,)."""
        return np.array([*shifted_sigmas(steps, shift), 0.0])

    def noise(self, seeds: Sequence[int], highest: float) -> torch.Tensor:
        """The first sample, at the highest level."""
        pack = self.model.pipe._pack_latents
        return torch.cat([pack(_randn(seed, 1, 16, 16, 16), 1, 16, 16, 16) for seed in seeds])

    def call(self, x: torch.Tensor, level: float, prompts: Sequence[str]) -> Callable[[], Any]:
        embeds, pooled = self.model.encode(prompts)
        ids = torch.zeros(64, 3)
        ids[:, 1], ids[:, 2] = torch.arange(64) // 8, torch.arange(64) % 8
        return lambda: self.network(
            hidden_states=x, timestep=torch.full((len(x),), level), guidance=None,
            pooled_projections=pooled, encoder_hidden_states=embeds,
            txt_ids=torch.zeros(embeds.shape[1], 3), img_ids=ids, return_dict=False,
        )  # fmt: skip

    def velocity(self, output: torch.Tensor, x: torch.Tensor, level: float) -> torch.Tensor:
        return output


class Turbo(Emoji):
    """The distilled emoji model."""

    library = turbo
    name = "emoji-turbo"


class Video(Emoji):
    """The video model."""

    library = video
    name = "emoji-video"

    def noise(self, seeds: Sequence[int], highest: float) -> torch.Tensor:
        return torch.cat([_randn(seed, 1, 16, 8, 16, 16) for seed in seeds])

    def call(self, x: torch.Tensor, level: float, prompts: Sequence[str]) -> Callable[[], Any]:
        return lambda: self.network(
            hidden_states=x, timestep=torch.full((len(x),), level * 1000),
            encoder_hidden_states=self.model.encode(prompts), return_dict=False,
        )  # fmt: skip


class UNet(Emoji):
    """The U-Net. Its sample, divided by 1 + σ, lies on the flow at level σ/(1 + σ)."""

    name = "emoji-unet"
    x0_plus_noise = True

    def __init__(self) -> None:
        self.model = unet.load()
        self.network = self.model.pipe.unet.eval()

    def levels(self, steps: int, shift: float) -> np.ndarray:
        """The levels of SDXL's Euler scheduler; ignores the shift."""
        self.model.pipe.scheduler.set_timesteps(steps)
        sigmas = np.array(self.model.pipe.scheduler.sigmas.tolist())
        return sigmas / (1 + sigmas)

    def noise(self, seeds: Sequence[int], highest: float) -> torch.Tensor:
        scale = np.hypot(highest, 1 - highest)
        return torch.cat([_randn(seed, 1, 4, 32, 32) for seed in seeds]) * scale

    def call(self, x: torch.Tensor, level: float, prompts: Sequence[str]) -> Callable[[], Any]:
        sigma = level / (1 - level)
        embeds, pooled = self.model.encode(prompts)
        told = {
            "text_embeds": pooled,
            "time_ids": torch.tensor([[256, 256, 0, 0, 256, 256]]).repeat(len(x), 1),
        }
        return lambda: self.network(
            x * (1 + sigma) / (sigma**2 + 1) ** 0.5, self._timestep(sigma),
            encoder_hidden_states=embeds, added_cond_kwargs=told, return_dict=False,
        )  # fmt: skip

    def velocity(self, output: torch.Tensor, x: torch.Tensor, level: float) -> torch.Tensor:
        sigma = level / (1 - level)
        return (1 + sigma) * output - x * (1 + sigma)

    def _timestep(self, sigma: float) -> float:
        bars = self.model.pipe.scheduler.alphas_cumprod.numpy()
        known = np.sqrt((1 - bars) / bars)
        return float(np.interp(sigma, known, np.arange(len(known))))


MODELS: Mapping[str, type[Emoji]] = {kind.name: kind for kind in (Emoji, Turbo, Video, UNet)}
Grams = Mapping[str, GramCurve]


@dataclass(frozen=True)
class Choice:
    """How a forecast is made; by default as MagCache does in a first run.

    Attributes:
        residual: Whether the block residual is predicted instead of the output.
        source: "prior", "learned" or "own".
        weight: A name in `REMAINS`.
        mends: See `Planned`.
    """

    residual: bool = False
    source: str = "prior"
    weight: str = DEFAULT
    mends: str = "all"

    def __str__(self) -> str:
        place = "residual" if self.residual else "output"
        return f"{place}, {self.source}, {self.weight}, mended {self.mends}"


AS_USED = Choice()


@dataclass(frozen=True)
class Planned:
    """A plan in use.

    Attributes:
        chosen: Which evaluations are computed.
        grams: Gram curves of the mean and the difference of the branches.
        levels: Flow levels, (T + 1,).
        residual: Whether the block residual is predicted instead of the output.
        mends: "" does not mend; "all" mends as MagCache does; "again" samples a gap again, which
            also works for multistep samplers.
    """

    chosen: Sequence[bool]
    grams: Grams
    levels: np.ndarray
    residual: bool
    mends: str = "all"
    _known: dict[Any, list[float]] = field(default_factory=dict)

    def weights(self, signal: str, held: Sequence[float], level: float) -> list[float]:
        key = signal, (*held,), level
        if key not in self._known:
            gram = self.grams[signal].between(np.array([*held, level]))
            self._known[key] = best_weights(gram)[0].tolist()
        return self._known[key]

    def lesson(
        self, held: Sequence[tuple[float, Outputs]], new: Outputs, level: float, cfg: float
    ) -> tuple[float, float]:
        """The error of predicting a computed evaluation, see `magcache.curves.Learned`."""
        shares = guidance_shares(list(self.grams), cfg)
        wrong = [a - b for a, b in zip(self.predicted(held, level), new, strict=True)]
        found, at = 0.0, np.array([*(at for at, _ in held), level])
        expected = 0.0
        for signal, share in shares.items():
            error = _signal(signal, wrong)
            found += share * float(error.square().sum() / _signal("mean", new).square().sum())
            gram = self.grams[signal].between(at)
            norm = self.grams["mean"].between(at)[-1, -1]
            expected += share * best_weights(gram)[1] ** 2 * gram[-1, -1] / norm
        return level, found / expected

    def predicted(self, held: Sequence[tuple[float, Outputs]], level: float) -> Outputs:
        past = [at for at, _ in held]
        return _of_all(
            [outputs for _, outputs in held],
            self.weights("mean", past, level), self._differing(held, past, level),
        )  # fmt: skip

    def mending(
        self, held: Sequence[tuple[float, Outputs]], new: Outputs, gap: Sequence[int], place: int
    ) -> Outputs | None:
        """The mending term of the branches computed at `place`, after a gap."""
        if self.mends != "all" or not (gap and held):
            return None
        past, ahead = [at for at, _ in held], [*self.chosen[place + 1 :], True].index(True)
        skipped, mender = [float(self.levels[each]) for each in gap], Mender(list(self.levels))
        factors = [
            mender.factors(
                lambda used, at, signal=signal: self.weights(signal, used, at),
                past, skipped, float(self.levels[place]), ahead,
            )
            for signal in self.grams
        ]  # fmt: skip
        if factors[0] is None:
            return None
        every = [*(outputs for _, outputs in held), new]
        return _of_all(every, factors[0], factors[-1] or factors[0])

    def better(
        self, held: Sequence[tuple[float, Outputs]], new: Outputs, gap: Sequence[int], place: int
    ) -> Iterator[tuple[int, Outputs]]:
        """Better predictions for each place in a gap, now that the place after it is computed."""
        ahead = [*self.chosen[place + 1 :], True].index(True)
        share = Mender(list(self.levels)).share(gap[0], place, ahead)
        every = [*held, (float(self.levels[place]), new)]
        for at in gap:
            both = (self.predicted(known, float(self.levels[at])) for known in (held, every))
            yield at, [old + share * (found - old) for old, found in zip(*both, strict=True)]

    def _differing(self, held: Any, past: Sequence[float], level: float) -> list[float]:
        several = len(held[0][1]) > 1
        return self.weights("difference" if several else "mean", past, level)


def _signal(name: str, outputs: Outputs) -> torch.Tensor:
    first, last = outputs[0], outputs[-1]
    return first - last if name == "difference" else (first + last) / 2


def _of_all(held: Sequence[Outputs], mean: Sequence[float], difference: Sequence[float]) -> Outputs:
    """Predicts the branches: their mean with one set of weights, the rest with another."""
    means = [_sum(outputs) / len(outputs) for outputs in held]
    shared = _sum((m - d) * each for m, d, each in zip(mean, difference, means, strict=True))
    return [
        shared + _sum(d * outputs[branch] for d, outputs in zip(difference, held, strict=True))
        for branch in range(len(held[0]))
    ]


def _sum(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack([*tensors]).sum(0)


@torch.no_grad()
def sampled(
    subject: Emoji, prompts: Sequence[str], seeds: Sequence[int], levels: np.ndarray, cfg: float,
    plan: Planned | None = None, sampler: str = "euler", record: list[Any] | None = None,
    residual: bool = False, lessons: list[tuple[float, float]] | None = None,
) -> torch.Tensor:  # fmt: skip
    """Samples a batch; returns the pipeline's latents."""
    x, held, gap, before = subject.noise(seeds, levels[0]), [], [], None
    at_gap: tuple[Any, Any] = x, before
    every = [prompts] if cfg == 1 else [prompts, [""] * len(prompts)]
    texts = [text for branch in every for text in branch]
    for place, level in enumerate(levels[:-1]):
        doubled = torch.cat([x] * len(every))
        call = subject.call(doubled, float(level), texts)

        def velocities(output: Any, x: Any = doubled, level: float = float(level)) -> Outputs:
            return list(subject.velocity(output[0], x, level).chunk(len(every)))

        if plan is None or plan.chosen[place]:
            if residual:
                output, found = subject.stack.compute(call)
                assert found is not None
                kept = list(found[0].chunk(len(every)))
            else:
                output = call()
                kept = velocities(output)
            used = velocities(output)
            if lessons is not None and plan and len(held) == KEEP:
                lessons.append(plan.lesson(held, kept, float(level), cfg))
            if record is not None:
                record.append([each.double() for each in kept])
            add = plan.mending(held, kept, gap, place) if plan and sampler == "euler" else None
            if add is not None and residual:
                mended = torch.cat([a + b for a, b in zip(kept, add, strict=True)])
                used = velocities(subject.stack.skip(call, (mended,)))
            elif add is not None:
                used = [a + b for a, b in zip(kept, add, strict=True)]
            if plan and plan.mends == "again" and gap:
                x, before = at_gap
                for at, outputs in plan.better(held, kept, gap, place):
                    x, before = _step(
                        subject, x, levels, at, _guided(outputs, cfg), before, sampler
                    )
            held, gap = [*held, (float(level), kept)][-KEEP:], []
        else:
            at_gap = at_gap if gap else (x, before)
            used, gap = plan.predicted(held, float(level)), [*gap, place]
            if residual:
                used = velocities(subject.stack.skip(call, (torch.cat(used),)))
        x, before = _step(subject, x, levels, place, _guided(used, cfg), before, sampler)
    return x


def _guided(outputs: Outputs, cfg: float) -> torch.Tensor:
    return outputs[-1] + cfg * (outputs[0] - outputs[-1]) if cfg != 1 else outputs[0]


def _step(
    subject: Emoji, x: torch.Tensor, levels: np.ndarray, place: int, velocity: torch.Tensor,
    before: Any, sampler: str,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The next sample, and the current denoised one."""
    level, following = float(levels[place]), float(levels[place + 1])
    denoised = x - level * velocity
    if sampler == "euler" or place == 0 or following == 0:
        return x - (level - following) * velocity, denoised
    step = (levels[place - 1], level, following)
    return _second_order(subject, x, step, denoised, before), denoised


def _second_order(
    subject: Emoji, x: torch.Tensor, step: Sequence[float], new: torch.Tensor, old: Any
) -> torch.Tensor:
    """A step of ComfyUI's `res_multistep`, exponential Adams-Bashforth of order 2 in -log σ."""
    scales = [1 / (1 - at) if subject.x0_plus_noise else 1.0 for at in step]
    past, now, then = (-np.log(at * scale) for at, scale in zip(step, scales, strict=True))
    h = then - now
    first = -np.expm1(-h) / h
    second = (first - 1) / -h / ((past - now) / h)
    moved = np.exp(-h) * x * scales[1] + h * ((first - second) * new + second * old)
    return (moved / scales[2]).float()


def _randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@cache
def subject_of(name: str) -> Emoji:
    """A model, loaded once."""
    return MODELS[name]()


@cache
def measured(name: str, residual: bool) -> Grams:
    """A model's curves: from the prior's file, or measured on its residuals and saved."""
    if not residual:
        return prior.members()[name]
    path = FOLDER / f"residual-{name}.npz"
    if not path.exists():
        subject, record = subject_of(name), []
        prompts = subject.model.prompts("calibration")[:CALIBRATION]
        levels = np.array([*MEASURED, 0.0])
        sampled(subject, prompts, range(7, 7 + len(prompts)), levels, 3.0,
                record=record, residual=True)  # fmt: skip
        cond, uncond = (torch.stack(b).flatten(1).numpy() for b in zip(*record, strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        signals = {"mean": (cond + uncond) / 2, "difference": cond - uncond}
        np.savez(path, **{signal: each @ each.T for signal, each in signals.items()})
    with np.load(path) as held:
        return {signal: _curve(held[signal], held["mean"]) for signal in held}


def _curve(gram: np.ndarray, mean: np.ndarray) -> GramCurve:
    norms = np.sqrt(np.diag(gram))
    logs = np.log(norms / np.sqrt(np.diag(mean)).mean())
    return GramCurve(MagnitudeCurve((*MEASURED,), (*logs,)), gram / norms / norms[:, None])


def psnr(images: torch.Tensor, reference: torch.Tensor) -> list[float]:
    """PSNR of each image, dB."""
    error = (images - reference).square().flatten(1).mean(1)
    return (-10 * torch.log10(error.clamp_min(1e-10))).tolist()


@dataclass(frozen=True)
class Lab:
    """One model in one condition.

    Attributes:
        begin: Evaluations that every plan computes first. None hedges as MagCache does.
    """

    name: str
    steps: int
    cfg: float
    shift: float
    sampler: str
    prompts: int
    first: int
    begin: int | None = None

    @property
    def told(self) -> str:
        begin = f", {self.begin} computed first" if self.begin else ""
        return (
            f"{self.name}, {self.steps} steps, CFG {self.cfg:g}, shift {self.shift:g}, "
            f"{self.sampler}, {self.prompts} prompts from {self.first}{begin}"
        )

    @cached_property
    def levels(self) -> np.ndarray:
        return subject_of(self.name).levels(self.steps, self.shift)

    def images(self, **asked: Any) -> torch.Tensor:
        return subject_of(self.name).model.decode(self.latents(**asked))

    def latents(self, **asked: Any) -> torch.Tensor:
        """The pipeline's latents; what is asked goes to `sampled`."""
        subject = subject_of(self.name)
        own = subject.model.prompts("test")[self.first :]
        prompts = [own[place % len(own)] for place in range(self.prompts)]  # repeats get new seeds
        seeds = range(self.first, self.first + self.prompts)
        asked = {"levels": self.levels, "cfg": self.cfg, "sampler": self.sampler, **asked}
        batches = [
            sampled(subject, prompts[at : at + BATCH], seeds[at : at + BATCH], **asked)
            for at in range(0, len(prompts), BATCH)
        ]
        return torch.cat(batches)

    @cached_property
    def reference(self) -> torch.Tensor:
        return self.images()

    def psnr(self, **asked: Any) -> list[float]:
        return psnr(self.images(**asked), self.reference)

    def plain(self, computed: int) -> list[float]:
        """PSNR of plain sampling with `computed` steps."""
        return self.psnr(levels=subject_of(self.name).levels(computed, self.shift))

    def planned(self, computed: int, choice: Choice = AS_USED) -> tuple[list[float], str]:
        """PSNR of each prompt, and the schedule."""
        plan = self.plan(computed, choice)
        if choice.source == "learned":
            learned, subject = Learned(), subject_of(self.name)
            for seed, prompt in enumerate(subject.model.prompts("calibration")[:3]):
                lessons: list[tuple[float, float]] = []
                sampled(subject, [prompt], [seed], self.levels, self.cfg, plan, self.sampler,
                        residual=choice.residual, lessons=lessons)  # fmt: skip
                learned = learned.taught(lessons)
                plan = self.plan(computed, choice, learned)
        found = self.psnr(plan=plan, residual=choice.residual)
        return found, "".join("#" if each else "." for each in plan.chosen)

    def plan(
        self, computed: int, choice: Choice = AS_USED, learned: Learned | None = None
    ) -> Planned:
        grams, costs = self.costs(choice, learned)
        if self.begin is not None:
            schedule = best_schedule(costs.computing_first(self.begin), computed)
        else:
            schedule = (best_schedule if choice.source == "own" else hedged_schedule)(
                costs, computed
            )
        return Planned(schedule, grams, self.levels, choice.residual, choice.mends)

    def costs(
        self, choice: Choice = AS_USED, learned: Learned | None = None
    ) -> tuple[Grams, Costs]:
        """The Gram curves to predict with, and the costs to plan with."""
        names = [self.name] if choice.source == "own" else [*unseen(self.name)]
        if choice.residual:
            names = [name for name in names if name != UNet.name]
        signals = ["mean"] if self.cfg == 1 else ["mean", "difference"]
        known = [measured(name, choice.residual) for name in names]
        members = [{signal: member[signal] for signal in signals} for member in known]
        grams, levels = prior.mean(members), self.levels[:-1].tolist()
        costs = costs_of(
            grams, levels, 0.0, self.cfg, remaining=REMAINS[choice.weight], members=members,
            ratios=(learned or Learned()).ratios(levels),
        )  # fmt: skip
        return grams, costs


class Figures:
    """PSNR of each prompt and schedules; measures what has not been saved."""

    def __init__(self) -> None:
        self._kept = Kept("forecast")

    def plain(self, lab: Lab, count: int) -> list[float]:
        """The figures of `Lab.plain`."""
        return self._of(lab, "plain", count, lambda: (lab.plain(count), ""))[0]

    def planned(self, lab: Lab, count: int, choice: Choice = AS_USED) -> tuple[list[float], str]:
        """The figures of `Lab.planned`."""
        return self._of(lab, str(choice), count, lambda: lab.planned(count, choice))

    def _of(
        self, lab: Lab, title: str, count: int, make: Callable[[], tuple[list[float], str]]
    ) -> tuple[list[float], str]:
        def measure() -> dict[str, Any]:
            psnr, schedule = make()
            return {"psnr": [round(p, 2) for p in psnr], "schedule": schedule}

        found = self._kept.of(f"{lab.told}: {title}: {count}", measure)
        return found["psnr"], found["schedule"]
