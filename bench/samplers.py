"""Measures forecasting in a first run of the emoji model with every sampler of ComfyUI.

    COMFYUI_PATH=~/ComfyUI path/to/its/python -m bench.samplers

Takes half an hour on a CPU and needs matplotlib in ComfyUI's Python. Saves the figures of each
sampler in bench/results at once. When all are there, it writes docs/samplers.md and its picture.
"""

import argparse
import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch

from magcache.blocks import Path
from tools.tables import table

from .figures import mean_tenth_least
from .kept import Kept
from .quality.comfyui import Emoji, start_comfyui
from .quality.condition import Condition
from .quality.counting import one_thread
from .quality.first import first_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = File("docs/samplers.md")
PICTURE = File("docs/samplers.png")
NOISY = ("ancestral", "sde", "ddpm", "lcm", "seeds")  # name parts of samplers that draw noise
ADAPTIVE = "dpm_adaptive"


@dataclass(frozen=True)
class Setting:
    """The settings that all samplers share."""

    steps: int = 20
    shift: float = 3.0
    prompts: int = 16
    speedup: float = 2.0


@dataclass(frozen=True)
class Row:
    """One sampler.

    Attributes:
        evaluations, computed: Number of evaluations of the full run, and of those that the
            forecast computes.
        plain_steps: The largest number of plain steps that cost no more than the forecast; 0 if
            none does.
        forecast, plain: PSNR of each prompt against the full run, dB.
        own_latent: The forecast's PSNR if velocities are taken from the sampler's latent instead
            of Euler's path.
    """

    sampler: str
    evaluations: int
    computed: int
    plain_steps: int
    forecast: list[float]
    plain: list[float]
    own_latent: list[float]


class Bench:
    """The emoji model in a ComfyUI that runs in this process."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._model = Emoji(Condition(setting.steps, 3.0, setting.shift))
        self._prompts = self._model.prompts("test")[: setting.prompts]

    def row(self, sampler: str) -> Row:
        setting = self.setting
        full, evaluations = self._sample("uncached", sampler, setting.steps)
        fast, computed = self._sample("forecast", sampler, setting.steps)
        with patch.object(Path, "instead_of", lambda _, x: x):
            other, _ = self._sample("forecast", sampler, setting.steps)
        steps, plain = self._plain(sampler, computed, evaluations)
        found, own = _psnr(fast, full), _psnr(other, full)
        plain = [] if plain is None else _psnr(plain, full)
        return Row(sampler, evaluations, computed, steps, found, plain, own)

    def _plain(
        self, sampler: str, computed: int, evaluations: int
    ) -> tuple[int, np.ndarray | None]:
        """The most plain steps that cost no more than `computed` evaluations, and their images."""
        if sampler == ADAPTIVE:  # it takes as many steps as it likes
            return 0, None
        steps = max(1, self.setting.steps * computed // evaluations)
        plain, spent = self._sample("uncached", sampler, steps)
        while spent < computed:
            more, then = self._sample("uncached", sampler, steps + 1)
            if then > computed:
                break
            plain, spent, steps = more, then, steps + 1
        assert spent <= computed, f"{sampler}: {steps} plain steps cost more than the forecast"
        return steps, plain

    def _sample(self, way: str, sampler: str, steps: int) -> tuple[np.ndarray, int]:
        """The images, and how often the model ran."""
        cached, calls = self._model.cached(way, {"speedup": self.setting.speedup}), [0]

        def count(executor: Any, *args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            return executor(*args, **kwargs)

        cached.add_wrapper_with_key("diffusion_model", "count", count)
        cfg = 1.0 if "cfg_pp" in sampler else None  # CFG++ has another scale
        seeds = range(len(self._prompts))
        images = self._model.sample(cached, self._prompts, seeds, steps, sampler, cfg)
        return images, calls[0]


def _psnr(images: np.ndarray, full: np.ndarray) -> list[float]:
    error = np.square(images.astype(float) - full).reshape(len(full), -1).mean(1)
    return [round(float(each), 2) for each in -10 * np.log10(np.maximum(error, 1e-10))]


def rows_of(rows: Sequence[Row]) -> str:
    """A row per sampler, in Markdown, the closest first."""
    cells = []
    for row in sorted(rows, key=lambda row: -statistics.mean(row.forecast)):
        forecast, plain = mean_tenth_least(row.forecast), None
        if row.plain:
            plain = mean_tenth_least(row.plain)
            better = statistics.mean(row.forecast) > statistics.mean(row.plain)
            forecast, plain = (f"**{forecast}**", plain) if better else (forecast, f"**{plain}**")
        cost, steps = f"{row.computed} of {row.evaluations}", row.plain_steps
        cells.append([row.sampler, cost, forecast, f"{steps}" if steps else None, plain])
    return table(["sampler", "computed", "2x, MagCache", "plain steps", "plain"], cells, 4)


def page(rows: Sequence[Row], setting: Setting, version: str) -> str:
    """The whole page."""
    still, noisy = _sorted(rows)
    compared = [row for row in still if row.plain]
    ahead = sum(statistics.mean(row.forecast) > statistics.mean(row.plain) for row in compared)
    head = (
        f"**With {ahead} of {len(compared)} samplers that draw no noise, MagCache at "
        f"{setting.speedup:g}x is closer to the full run than ordinary sampling at the same "
        "cost.** "
        "Use `euler`, `ddim`, `dpmpp_2m` or `res_multistep` where you can choose. `lms`, "
        "`ipndm_v` and most CFG++ samplers amplify any change.\n\n"
        f"Every sampler of ComfyUI {version} drew {setting.prompts} test prompts with the small "
        f"emoji model: {setting.steps} steps, shift {setting.shift:g}, CFG 3 (1 for CFG++), as a "
        "first run, without anything measured on that model. Made by `python -m bench.samplers`."
        "\n\n- **computed**: how often the model ran, and how often it runs without MagCache.\n"
        "- **2x, MagCache** and **plain**: how close the result is to the full run of the same "
        "sampler, as PSNR in dB: mean / 10th percentile / minimum; higher is closer.\n"
        "- **plain steps**: how many ordinary steps cost no more. `dpm_adaptive` chooses its own "
        "number.\n\n"
        "Samplers that call the model several times per step only come close to the speed you ask "
        "for; see *computed*."
    )
    why = (
        "With fewer steps these draw other noise, so ordinary sampling ends with another picture. "
        "MagCache draws the full run's noise, and predicts what the result would be without it."
    )
    return "\n".join([
        f"# Samplers\n\n{head}\n",
        "## Samplers that draw no noise\n",
        f"![Mean PSNR with MagCache and of plain sampling, a line a sampler]({PICTURE.name})\n",
        rows_of(still).strip(),
        f"\n## Samplers that draw noise at every step\n\n{why}\n",
        rows_of(noisy).strip(),
        f"\n## Euler's path\n\n{euler_path(rows)}\n",
    ])  # fmt: skip


def euler_path(rows: Sequence[Row]) -> str:
    """What it gains to take out of a latent what a sampler adds to Euler's path."""
    gains = {
        row.sampler: (statistics.mean(row.forecast), statistics.mean(row.own_latent))
        for row in rows
    }
    ordered = sorted(gains, key=lambda sampler: gains[sampler][1] - gains[sampler][0])
    told = {name: f"`{name}` ({gains[name][1]:.1f} to {gains[name][0]:.1f} dB)" for name in ordered}
    ahead = sum(forecast > latent + 1 for forecast, latent in gains.values())
    worse = [told[name] for name in ordered if gains[name][1] > gains[name][0] + 1]
    return (
        "Many samplers add something of their own to each step, noise for instance. MagCache takes "
        "it out before it predicts: it follows the latents that Euler's method would have reached "
        "with the same results. Compared with predicting from the latent as it is, this gains "
        f"more than 1 dB with {ahead} of {len(rows)} samplers, most with "
        f"{', '.join([*told.values()][:3])}. It loses more than 1 dB with "
        f"{', '.join(worse) or 'none'}."
    )


def draw(rows: Sequence[Row]) -> "Figure":
    """Draws a line per sampler, from the mean of plain sampling to that of the forecast."""
    from matplotlib.figure import Figure

    groups = _sorted(rows)
    figure = Figure(figsize=(8, 10), layout="constrained")
    heights = [len(group) for group in groups]
    titles = ("Samplers that draw no noise", "Samplers that draw noise at every step")
    panels = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    for axes, group, title in zip(panels, groups, titles, strict=True):
        ordered = sorted(group, key=lambda row: statistics.mean(row.forecast))
        forecast = [statistics.mean(row.forecast) for row in ordered]
        plain = [statistics.mean(row.plain) if row.plain else math.nan for row in ordered]
        places = range(len(ordered))
        axes.hlines(places, plain, forecast, color="0.75", linewidth=1.5, zorder=1)
        axes.plot(plain, places, "o", color="black", fillstyle="none", label="plain steps")
        axes.plot(forecast, places, "o", color="#D55E00", label="MagCache at 2x")
        axes.set_yticks(places, [row.sampler for row in ordered])
        axes.set_title(title, loc="left", fontsize=11)
        axes.grid(axis="x", color="0.9")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].legend(loc="lower right", frameon=False)
    panels[1].set_xlabel("mean PSNR to the full run, dB")
    return figure


def _sorted(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of samplers that draw no noise, and the others."""
    noisy = [row for row in rows if any(part in row.sampler for part in NOISY)]
    return [row for row in rows if row not in noisy], noisy


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sampler", nargs="+", help="measure only these, and write no page")
    asked = parser.parse_args()
    start_comfyui()
    one_thread()
    import comfy.samplers
    import comfyui_version

    logging.getLogger("magcache").setLevel(logging.WARNING)
    setting = Setting()
    bench, kept, rows = Bench(setting), Kept("samplers"), []
    for sampler in asked.sampler or comfy.samplers.KSampler.SAMPLERS:

        def measure(sampler: str = sampler) -> dict[str, Any]:
            with first_run("emoji"), torch.inference_mode():
                return {"row": asdict(bench.row(sampler))}

        rows.append(Row(**kept.of(f"{sampler}, {setting}", measure)["row"]))
        print(rows_of(rows[-1:]).strip().splitlines()[-1], flush=True)
    if not asked.sampler:
        PAGE.write_text(page(rows, setting, comfyui_version.__version__), "utf-8")
        draw(rows).savefig(PICTURE, dpi=110, facecolor="white")
        print(f"written: {PAGE}, {PICTURE}")


if __name__ == "__main__":
    main()
