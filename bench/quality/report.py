"""Writes the results as a Markdown page and a picture."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np
import torch

from bench.figures import mean_tenth_least

from .bench import swept, uncached_of
from .comfyhost import WAYS as COMFYUI
from .condition import Condition
from .picture import draw
from .rivals import CACHE_DIT, DIFFUSERS
from .select import best_at, share
from .store import Result, Store
from .ways import FORECAST, OWN, PLAIN, PLANNED, RULE, UNCACHED

# Share of the uncached run by which a way that decides by itself may exceed the cost.
SLACK = 0.03
PLACES = 3  # number of lowest costs of a condition at which leads are counted
AHEAD = 3.0  # dB of mean PSNR that counts as a lead

WAYS = [way.name for way in OWN[1:] + DIFFUSERS + CACHE_DIT] + list(COMFYUI)
TITLES = {"emoji": "the emoji model", "emoji-video": "the video model", "emoji-unet": "the U-Net"}


@dataclass(frozen=True)
class Compared:
    """The results of one condition, on the prompts to compare on."""

    condition: Condition
    results: Sequence[Result]

    @property
    def ways(self) -> list[str]:
        """Names of the ways: this project's first, the others by quality at medium cost."""
        names = {result.way for result in self.results} - {UNCACHED}
        first = [name for name in (FORECAST, PLANNED, RULE, PLAIN) if name in names]
        middle = self.condition.targets[2]

        def rank(way: str) -> tuple[float, str]:
            best = self.best(way, middle)
            return -best.mean if best else 0.0, way

        return first + sorted(names - set(first), key=rank)

    def best(self, way: str, target: int) -> Result | None:
        """The way's closest result for the work of this many uncached evaluations."""
        own = [result for result in self.results if result.way == way]
        if not own:
            return None
        wanted = target / self.condition.steps
        return best_at(own, self.uncached(own[0]), wanted, SLACK)

    def rival(self, target: int) -> Result | None:
        """The best result that needs neither a forecast nor a calibration."""
        ways = [way for way in self.ways if way not in (FORECAST, PLANNED)]
        found = [result for way in ways if (result := self.best(way, target))]
        return max(found, key=lambda result: result.mean, default=None)

    def uncached(self, result: Result) -> Result:
        return uncached_of(self.results, result)

    def curve(self, way: str) -> list[tuple[float, float]]:
        """The best results as (cost as a share of the blocks' work, mean PSNR), by cost."""
        found = [self.best(way, target) for target in self.condition.targets]
        points = {(share(r, self.uncached(r)), r.mean) for r in found if r is not None}
        return sorted(points)


def collected(
    model: str, conditions: Sequence[Condition], prompts: int, folder: Path
) -> list[Compared]:
    """The conditions in which `prompts` prompts were compared on."""
    found = [
        Compared(condition, Store(model, condition, folder).of(f"test-{prompts}"))
        for condition in conditions
    ]
    return [compared for compared in found if compared.ways]


def write(
    model: str, conditions: Sequence[Condition], prompts: int, page: Path, folder: Path
) -> list[Path]:
    """Writes the page, and the picture beside it; nothing without results."""
    found = collected(model, conditions, prompts, folder)
    if not found:
        return []
    page.parent.mkdir(parents=True, exist_ok=True)
    picture = page.with_name(f"quality-{model}.png")
    figure = draw({str(c.condition): {w: c.curve(w) for w in c.ways} for c in found})
    figure.savefig(picture, dpi=110, facecolor="white")
    page.write_text("\n".join(lines(model, prompts, found, picture.name)), encoding="utf-8")
    return [page, picture]


def machine() -> str:
    """The machine and versions of the measurement."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [
            x for x in info.read_text(encoding="utf-8").splitlines() if x.startswith("model name")
        ]
        cpu = named[0].split(":", 1)[1].strip() if named else cpu
    return f"{cpu}, one thread, torch {torch.__version__}"


INTRODUCTION = """# Quality at equal cost: {title}

How close does each method come to the uncached run for the same work? Every figure is PSNR in dB
against the uncached run with the same seed, at most 100, as mean / 10th percentile / minimum over
{prompts} prompts that no setting was chosen on. Machine: {machine}.

    python -m bench.quality --model {model}    # hours; it resumes where it was stopped

- **Forecast, first run** is MagCache as installed. Its plan and its predictions come from a prior
  made without this model, and it has seen no run of the model.
- **Every other method has its best settings for each cost**, chosen on {swept} other prompts. A
  method that decides while it samples may exceed the cost by 3 % of a full run. – means that no
  setting is that cheap.
- **Cost** is the work that the layers inside the model's blocks really did, counted layer by layer.
  A cache that always computes its first block, or that skips only attention, pays for what it
  computes. [Overhead](overhead.md) says how much time MagCache takes besides.
{notes}
![Mean PSNR against cost, one panel per condition]({picture})
"""
CALIBRATED = """\
- **{planned}** is MagCache with a calibration from one prompt, made in the same condition.
- diffusers' MagCache uses the ratios of that calibration. SeaCache is given the step, σ and the
  latents, which diffusers' pipelines do not pass on. Spectrum's forecaster was written from its
  published description.
"""
COMFYUIS = """\
- EasyCache and LazyCache run in ComfyUI and are compared with ComfyUI's own uncached run, whose
  noise levels differ slightly for the video model and the U-Net. EasyCache adds to its input in
  place, which spoils a float32 sampling, so here it is given a copy.
"""


BEHIND = {
    "emoji": """\
**Where it is behind, and why.** Nearly every lost minimum is one or two prompts, such as
*smiling face halo* or *smiling cat face heart shaped eyes*: repeating an early evaluation turns
them into another picture. No plan that is fixed beforehand can know which prompts these are. A
cache that decides while it samples, such as EasyCache or SeaCache, notices some of them and
computes more for them. At 20 steps, CFG 3 and shift 3 the published rule is ahead at half the
work; with a calibration (*planned prediction*) MagCache is ahead there too.
""",
    "emoji-video": """\
**Where it is behind, and why.** At half the work the forecast has the best mean and the best
minimum in six of eight conditions, though seldom by 3 dB. At a quarter and a third it is mostly
behind. This model [keeps the errors of early
evaluations](prediction.md#what-remains-of-an-error), where the emoji model takes them back, so long
gaps cost more than the larger steps of UniPC. The plan follows the curves of two other models,
which cannot tell. Spectrum, which computes the first two or three evaluations, loses less there.
With a calibration (*planned prediction*) MagCache knows this model's own curves: its mean then
leads in seven of eight conditions at a third and at half the work, and in four at a quarter.
""",
    "emoji-unet": """\
**Where it is behind, and why.** *Output with a slope* is our own version of MeanCache's idea,
with its best schedule for each cost. With Euler it is ahead in half of the cells, because its
best schedule computes the first two or three evaluations. The forecast's plan follows the
curves of two other models, which lose less by skipping the second and third evaluation than
this one does; only where that [costs little](prediction.md#the-first-evaluations) are they
computed. After three runs MagCache has learned that: it then gains [0.4 to 4.3
dB](prediction.md#first-runs) at the same cost. The transformers' caches do not fit a U-Net.
""",
}


def lines(model: str, prompts: int, found: Sequence[Compared], picture: str) -> Iterator[str]:
    """The page, line by line."""
    ways = {way for compared in found for way in compared.ways}
    notes = CALIBRATED.format(planned=PLANNED.capitalize()) if PLANNED in ways else ""
    notes += COMFYUIS if ways.intersection(COMFYUI) else ""
    yield INTRODUCTION.format(
        title=TITLES.get(model, model), prompts=prompts, swept=swept(prompts), machine=machine(),
        model=model, notes=notes, picture=picture,
    )  # fmt: skip
    yield from _summary(found)
    yield from ([BEHIND[model]] if model in BEHIND else [])
    for compared in found:
        yield f"## {compared.condition}\n"
        if missing := [way for way in WAYS if way in ways and way not in compared.ways]:
            yield f"Not measured: {', '.join(missing)}.\n"
        yield from _table(compared)
        yield from _details(compared, compared.condition.targets[2])


def _summary(found: Sequence[Compared]) -> Iterator[str]:
    """One row per condition: the forecast's lead at each cost."""
    steps = found[0].condition
    heads = [f"{target / steps.steps:.0%}" for target in steps.targets]
    leads = [_leads(c, target) for c in found for target in c.condition.targets[:PLACES]]
    known = [lead for lead in leads if lead]
    mean = sum(lead[0] >= AHEAD for lead in known)
    least = sum(lead[1] >= 0 for lead in known)
    yield "## All conditions\n"
    told = (
        "How many dB the forecast leads the best other method by, in the mean / in the minimum, "
        "and for how many prompts it is the closer one. "
        f"At {heads[0]} to {heads[PLACES - 1]} of the work the mean leads by {AHEAD:g} dB or more "
        f"in {mean} of {len(known)} cells, and the minimum is at least as high in {least}."
    )
    yield fill(told, 100) + "\n"
    yield f"| | {' | '.join(heads)} |"
    yield "|---|" + "--:|" * len(heads)
    for compared in found:
        cells = [_lead(compared, target) for target in compared.condition.targets]
        yield f"| {compared.condition} | {' | '.join(cells)} |"
    yield ""


def _leads(compared: Compared, target: int) -> tuple[float, float, int] | None:
    """The forecast's lead over the best other way in dB, for mean and minimum; prompts won."""
    ours, best = compared.best(FORECAST, target), compared.rival(target)
    if ours is None or best is None:
        return None
    won = sum(a > b for a, b in zip(ours.psnr, best.psnr, strict=True))
    return ours.mean - best.mean, min(ours.psnr) - min(best.psnr), won


def _lead(compared: Compared, target: int) -> str:
    leads, best = _leads(compared, target), compared.rival(target)
    if leads is None or best is None:
        return "–"
    return f"{leads[0]:+.1f} / {leads[1]:+.1f}, {leads[2]} of {len(best.psnr)} ({best.way})"


def _table(compared: Compared) -> Iterator[str]:
    condition = compared.condition
    heads = [f"{target} of {condition.steps}" for target in condition.targets]
    yield f"| method | {' | '.join(heads)} |"
    yield "|---|" + "--:|" * len(heads)
    for way in compared.ways:
        found = [compared.best(way, target) for target in condition.targets]
        yield f"| {way} | {' | '.join(_cell(result) for result in found)} |"
    yield ""


def _cell(result: Result | None) -> str:
    if result is None:
        return "–"
    return mean_tenth_least(result.psnr)


def _details(compared: Compared, target: int) -> Iterator[str]:
    condition = compared.condition
    yield f"At the work of {target} of {condition.steps} evaluations (*whole* ran every block):\n"
    yield "| method | whole | work | SSIM | FLIP | setting |"
    yield "|---|--:|--:|--:|--:|---|"
    for way in compared.ways:
        result = compared.best(way, target)
        if result is None:
            continue
        uncached = compared.uncached(result)
        setting = ", ".join(f"{key} {_short(value)}" for key, value in result.setting.items())
        cells = [
            f"{result.cost.computed:.1f}",
            f"{share(result, uncached):.0%}",
            f"{np.mean(result.ssim):.4f}",
            f"{np.mean(result.flip):.4f}",
            setting,
        ]
        yield f"| {way} | {' | '.join(cells)} |"
    yield ""


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
