"""The results as a Markdown page and a picture."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .bench import FEW, uncached_of
from .comfyhost import WAYS as COMFYUI
from .condition import Condition
from .picture import draw
from .rivals import CACHE_DIT, DIFFUSERS
from .select import Axis, best_at, share
from .store import Result, Store
from .ways import FORECAST, OWN, PLAIN, PLANNED, RULE, UNCACHED

# Of the uncached run: what a way that decides by itself may cost too much, or a clock be wrong.
SLACK: dict[Axis, float] = {"flops": 0.03, "computed": 0.03, "seconds": 0.06}


WAYS = [way.name for way in OWN[1:] + DIFFUSERS + CACHE_DIT] + list(COMFYUI)


@dataclass(frozen=True)
class Compared:
    """What was measured in one condition on the prompts to compare on."""

    condition: Condition
    results: Sequence[Result]

    @property
    def ways(self) -> list[str]:
        """Names, this project's first, then by their quality in the middle."""
        names = {result.way for result in self.results} - {UNCACHED}
        first = [name for name in (FORECAST, PLANNED, RULE, PLAIN) if name in names]
        middle = self.condition.targets[2]

        def rank(way: str) -> float:
            best = self.best(way, "flops", middle)
            return -best.mean if best else 0.0

        return first + sorted(names - set(first), key=rank)

    @property
    def own(self) -> str:
        """The way that leads are given of: forecasting, or planned prediction before it was."""
        return FORECAST if FORECAST in self.ways else PLANNED

    @property
    def others(self) -> list[str]:
        """The ways that are not this project's, plain sampling among them."""
        return [way for way in self.ways if way not in (FORECAST, PLANNED, RULE)]

    def best(self, way: str, axis: Axis, target: int) -> Result | None:
        """The way's nearest to the uncached run with so many of its evaluations' cost."""
        own = [result for result in self.results if result.way == way]
        if not own:
            return None
        wanted = target / self.condition.steps
        return best_at(own, self.uncached(own[0]), axis, wanted, SLACK[axis])

    def uncached(self, result: Result) -> Result:
        return uncached_of(self.results, result)

    def curve(self, way: str) -> list[tuple[float, float]]:
        """(cost as a share of the blocks' work, mean PSNR) of the best results, by cost."""
        found = [self.best(way, "flops", target) for target in self.condition.targets]
        points = {(share(r, self.uncached(r), "flops"), r.mean) for r in found if r is not None}
        return sorted(points)


def conditions(model: str, folder: Path) -> list[Condition]:
    """Those with results: fewer steps first, then guided ones, then by shift."""
    found = []
    for path in folder.glob(f"{model}-[0-9]*.jsonl"):
        steps, cfg, shift = path.stem.removeprefix(f"{model}-").split("-")
        values = float(cfg.removeprefix("cfg")), float(shift.removeprefix("shift"))
        found.append(Condition(int(steps), *values))
    return sorted(found, key=lambda c: (c.steps, -c.cfg, c.shift))


def collected(model: str, prompts: int, folder: Path) -> list[Compared]:
    """All conditions in which `prompts` prompts were compared on."""
    found = [
        Compared(condition, Store(model, condition, folder).of(f"test-{prompts}"))
        for condition in conditions(model, folder)
    ]
    return [compared for compared in found if compared.ways]


def write(model: str, prompts: int, page: Path, folder: Path) -> list[Path]:
    """Writes the page, and beside it the picture; nothing where there are no results."""
    found = collected(model, prompts, folder)
    if not found:
        return []
    page.parent.mkdir(parents=True, exist_ok=True)
    picture = page.with_name(f"quality-{model}.png")
    figure = draw({str(c.condition): {w: c.curve(w) for w in c.ways} for c in found})
    figure.savefig(picture, dpi=150, facecolor="white")
    page.write_text("\n".join(lines(model, prompts, found, picture.name)), encoding="utf-8")
    return [page, picture]


def machine() -> str:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = named[0].split(":", 1)[1].strip() if named else cpu
    return f"{cpu}, one thread, torch {torch.__version__}"


INTRODUCTION = """# Quality at equal cost

How close to the uncached run each way of sampling is, at the same cost. Model: {model}. {prompts}
prompts and seeds that no calibration saw; each compared with the uncached run of its own seed and
host. Machine: {machine}.

- **Cost** is the work of the linear layers inside the blocks that was really done, counted layer
  by layer, as a share of the uncached run's; so a cache that computes its first block always, or
  skips attention only, pays for what it computes. Tables by *evaluations computed* count only
  those in which all blocks ran, and take the rest as free. Processor time is noisy: other work ran
  on the machine.
- **Every way's settings are swept** on other prompts (every third one, with fewer than {few} to
  compare on), its best at each cost is shown. Those that decide by what they see may cost up to
  3 % of a full run more than asked. – means that no setting comes so low.
- **Forecast, first run** plans and predicts from a prior without the model, of which it has seen no
  run. Nothing of it is swept.
- **{planned}** is calibrated with one prompt at the condition itself; nothing of it is swept. A run
  whose errors are far above the calibration's computes more than asked: beyond 3 % it is not shown.
- diffusers' MagCache gets that calibration's ratios. SeaCache is given step, σ and latents, which
  diffusers' pipelines do not tell it. EasyCache and LazyCache, where measured, run in ComfyUI,
  whose uncached run equals diffusers' here; EasyCache adds to its input in place, which spoils a
  sampling in float32, so it is given a copy. Caches that decide by what they see sample one prompt
  at a time. Spectrum's forecaster is written from its published description.
- The model has six blocks: what runs always weighs more here than in a model of 57 blocks.
- SSIM has the Gaussian window of Wang et al.: σ 1.5, 11 pixels.

PSNR is given as mean / 10th percentile / minimum over the prompts, in dB, each at most 100. The
mean is dominated by the few prompts whose image falls into another mode.

![Mean PSNR over cost, a panel a condition]({picture})
"""


def lines(model: str, prompts: int, found: Sequence[Compared], picture: str) -> Iterator[str]:
    """The page, line by line."""
    values = {"model": model, "prompts": prompts, "picture": picture, "few": FEW}
    yield INTRODUCTION.format(machine=machine(), planned=PLANNED.capitalize(), **values)
    yield from _summary(found)
    for compared in found:
        yield f"## {compared.condition}\n"
        if missing := [way for way in WAYS if way not in compared.ways]:
            yield f"Not measured: {', '.join(missing)}.\n"
        yield from _table(compared, "flops", "the same work in the blocks")
        yield from _table(compared, "computed", "as many evaluations computed")
        yield from _table(compared, "seconds", "the same processor time")
        yield from _details(compared, compared.condition.targets[2])


def _summary(found: Sequence[Compared]) -> Iterator[str]:
    """A row a condition: how far planned prediction is ahead at each cost."""
    steps = found[0].condition
    heads = [f"{target / steps.steps:.0%}" for target in steps.targets]
    yield "## All conditions\n"
    own = found[0].own.capitalize()
    yield f"{own} by the work in the blocks: mean PSNR, and by how many dB it is"
    yield "ahead of the published rule, and of the best other way (– where none comes so low):\n"
    yield f"| | {' | '.join(heads)} |"
    yield "|---|" + "--:|" * len(heads)
    for compared in found:
        cells = []
        for target in compared.condition.targets:
            ours = compared.best(compared.own, "flops", target)
            bests = [_best(compared, "flops", target, w) for w in ([RULE], compared.others)]
            if ours is None:
                cells.append("–")
                continue
            leads = [f"{ours.mean - best.mean:+.1f}" if best else "–" for best in bests]
            cells.append(f"{ours.mean:.1f} ({', '.join(leads)})")
        yield f"| {compared.condition} | {' | '.join(cells)} |"
    yield ""


def _table(compared: Compared, axis: Axis, title: str) -> Iterator[str]:
    condition = compared.condition
    heads = [f"{target} of {condition.steps}" for target in condition.targets]
    yield f"PSNR at {title}:\n"
    yield f"| way | {' | '.join(heads)} |"
    yield "|---|" + "--:|" * len(heads)
    for way in compared.ways:
        found = [compared.best(way, axis, target) for target in condition.targets]
        yield f"| {way} | {' | '.join(_cell(result) for result in found)} |"
    for name, others in (
        ("the published rule", [RULE]),
        ("the best other way", compared.others),
    ):
        leads = [_lead(compared, axis, target, others) for target in condition.targets]
        yield f"| *ahead of {name}* | {' | '.join(leads)} |"
    yield ""


def _cell(result: Result | None) -> str:
    if result is None:
        return "–"
    psnr = result.psnr
    return f"{np.mean(psnr):.1f} / {np.quantile(psnr, 0.1):.1f} / {np.min(psnr):.1f}"


def _best(compared: Compared, axis: Axis, target: int, ways: Sequence[str]) -> Result | None:
    """The best of some ways' results at a cost."""
    found = [r for way in ways if (r := compared.best(way, axis, target))]
    return max(found, key=lambda result: result.mean, default=None)


def _lead(compared: Compared, axis: Axis, target: int, others: Sequence[str]) -> str:
    ours, best = compared.best(compared.own, axis, target), _best(compared, axis, target, others)
    if not ours or not best:
        return "–"
    named = f" ({best.way})" if len(others) > 1 else ""
    return f"{ours.mean - best.mean:+.1f} dB{named}"


def _details(compared: Compared, target: int) -> Iterator[str]:
    condition = compared.condition
    yield f"Work of {target} of {condition.steps} evaluations in detail:\n"
    yield "| way | computed | work | speed-up | PSNR | SSIM | FLIP | setting |"
    yield "|---|--:|--:|--:|--:|--:|--:|---|"
    for way in compared.ways:
        result = compared.best(way, "flops", target)
        if result is None:
            continue
        uncached = compared.uncached(result)
        setting = ", ".join(f"{key} {_short(value)}" for key, value in result.setting.items())
        cells = [
            f"{result.cost.computed:.1f}",
            f"{share(result, uncached, 'flops'):.0%}",
            f"{uncached.cost.seconds / result.cost.seconds:.2f}x",
            f"{result.mean:.1f}",
            f"{np.mean(result.ssim):.4f}",
            f"{np.mean(result.flip):.4f}",
            setting,
        ]
        yield f"| {way} | {' | '.join(cells)} |"
    yield "\nSpeed-ups are in processor time.\n"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
