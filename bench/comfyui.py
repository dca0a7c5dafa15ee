"""Measures MagCache's cost and gain in a real ComfyUI, compared with the same model without it.

    COMFYUI_PATH=~/ComfyUI ~/comfyenv/bin/python -m bench.comfyui     two minutes on a CPU

The model is a narrow Wan with 16 blocks, of ComfyUI's own class, sampled with ComfyUI's own
sampler, so everything that ComfyUI does around a model call is included. Plain, computing and
skipping samplings alternate; figures are medians over the repeats, in processor time.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from .kept import write_whole

DEPTH, WIDTH, SIZE = 16, 256, (2, 24, 24)  # blocks, channels, latent frames with their size
MODEL_TYPE = "wan2.1_t2v_14B"


@dataclass
class Result:
    """Medians. Seconds are processor time; an evaluation includes both branches.

    Attributes:
        plain_seconds: Time of an evaluation without MagCache.
        computed_over_plain: Relative time of a computed evaluation (goal <= 1.02).
        skipped_over_plain: Relative time of a skipped evaluation (goal <= 0.05).
        sampling_speedup: Speed-up of 50 steps with the published list (goal >= 2.6).
        sampling_ideal: The same if skipped evaluations took no time.
        schedule: The schedule of that sampling, # computed and . skipped.
        forecast_computed, forecast_skipped: Relative times if the output is predicted (goals
            <= 1.01 and <= 0.02).
        forecast_speedup, forecast_ideal: Speed-up of 50 steps at 2x in a first sampling, and its
            number of evaluations over the computed ones.
    """

    plain_seconds: float
    computed_over_plain: float
    skipped_over_plain: float
    sampling_speedup: float
    sampling_ideal: float
    schedule: str
    forecast_computed: float
    forecast_skipped: float
    forecast_speedup: float
    forecast_ideal: float


def start_comfyui() -> str:
    """Makes the checkout at $COMFYUI_PATH importable, on the CPU; returns its version."""
    root = Path(os.environ["COMFYUI_PATH"]).expanduser()
    tests = Path(__file__).parent.parent / "tests" / "comfyui"
    sys.path[:0] = [str(tests), str(root)]
    arguments, sys.argv = sys.argv, [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.sd
    import folder_paths
    from comfyui_version import __version__

    sys.argv = arguments
    folder_paths.set_user_directory(tempfile.mkdtemp())  # keeps learned files out of ComfyUI's
    return __version__


class Stopwatch:
    """Records the processor time of every evaluation of a model."""

    def __init__(self, patcher: Any) -> None:
        self.seconds: list[float] = []
        patcher.add_wrapper_with_key("predict_noise", "bench", self._evaluation)

    def _evaluation(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        output = executor(*args, **kwargs)
        self.seconds.append(time.process_time() - began)
        return output


def measure(repeats: int, samplings: int, steps: int) -> Result:
    """Measures alternating evaluations, then alternating whole samplings."""
    from tiny_models import TINY, count_blocks, sample

    from magcache.hosts.comfyui.nodes.magcache import MagCache
    from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed

    tiny = TINY["wan_t2v"]
    sizes = {"dim": WIDTH, "num_heads": WIDTH // 128, "ffn_dim": 4 * WIDTH, "num_layers": DEPTH}
    latent = torch.zeros(1, 16, *SIZE)
    plain = tiny.build(**sizes)

    def accelerated(model: Any, **changes: Any) -> Any:
        widgets = {"magcache_thresh": 9.0, "retention_ratio": 0.0, "magcache_K": 99}
        widgets |= {"start_step": 0, "end_step": -1, **changes}
        return MagCache().apply(model, MODEL_TYPE, **widgets)[0]

    def run(model: Any, count: int) -> float:
        began = time.process_time()
        sample(model, tiny, count, latent=latent, cfg=5.0)
        return time.process_time() - began

    # The stopwatch is the outer wrapper, so that all of MagCache's work is timed.
    watched = {name: plain.clone() for name in ("plain", "computed", "skipped", "forecast")}
    watches = {name: Stopwatch(model) for name, model in watched.items()}
    watched["computed"] = accelerated(watched["computed"], magcache_thresh=1e-12)
    watched["skipped"] = accelerated(watched["skipped"])
    (watched["forecast"],) = MagCacheTargetSpeed().apply(watched["forecast"], 2.0, "automatic")
    rounds: list[dict[str, float]] = []
    for repeat in range(repeats + 1):  # the first round warms up
        rounds.append({})
        for name in _turned(list(watched), repeat):
            watches[name].seconds.clear()
            run(watched[name], 12 if name == "forecast" else 4)
            # The first evaluation of a sampling also measures the base or plans.
            taken = watches[name].seconds[1:]
            rounds[-1][name] = median(taken)
            if name == "forecast":
                least = max(taken) / 2  # a skipped one takes about a hundredth
                rounds[-1]["forecast computed"] = median(t for t in taken if t > least)
                rounds[-1]["forecast skipped"] = median(t for t in taken if t <= least)
    rounds = rounds[1:]

    published = accelerated(plain, recommended=True)
    whole: list[dict[str, float]] = []
    schedule, taken, computed = "", [], 1
    for repeat in range(samplings):
        whole.append({})
        for name in _turned(["plain", "published", "forecast"], repeat):
            if name != "published":
                watches[name].seconds.clear()
                whole[-1][name] = run(watched[name], steps)
                continue
            with count_blocks(published, tiny) as counts:
                whole[-1][name] = run(published, steps)
            schedule = str(counts)
        taken = watches["forecast"].seconds
        computed = sum(seconds > max(taken) / 2 for seconds in taken)
        print(f"{steps} steps:", {k: f"{v:.1f} s" for k, v in whole[-1].items()}, flush=True)
    return Result(
        plain_seconds=median(each["plain"] for each in rounds),
        computed_over_plain=median(each["computed"] / each["plain"] for each in rounds),
        skipped_over_plain=median(each["skipped"] / each["plain"] for each in rounds),
        sampling_speedup=median(each["plain"] / each["published"] for each in whole),
        sampling_ideal=len(schedule) / schedule.count("#"),
        schedule=schedule,
        forecast_computed=median(each["forecast computed"] / each["plain"] for each in rounds),
        forecast_skipped=median(each["forecast skipped"] / each["plain"] for each in rounds),
        forecast_speedup=median(each["plain"] / each["forecast"] for each in whole),
        forecast_ideal=len(taken) / computed,
    )


def _turned(names: list[str], by: int) -> list[str]:
    """Rotates the order, so that no variant always runs in the same place."""
    by %= len(names)
    return names[by:] + names[:by]


def table(result: Result) -> str:
    """The result as a Markdown table."""
    rows = [
        ("plain evaluation", f"{1000 * result.plain_seconds:.0f} ms", ""),
        ("computed / plain evaluation", f"{result.computed_over_plain:.3f}", "<= 1.02"),
        ("skipped / plain evaluation", f"{result.skipped_over_plain:.4f}", "<= 0.05"),
        (f"{len(result.schedule)} steps", f"{result.sampling_speedup:.2f}x", ">= 2.6x"),
        ("the same, were skipping free", f"{result.sampling_ideal:.2f}x", ""),
        ("forecast, computed / plain", f"{result.forecast_computed:.3f}", "<= 1.01"),
        ("forecast, skipped / plain", f"{result.forecast_skipped:.4f}", "<= 0.02"),
        (f"forecast, {len(result.schedule)} steps", f"{result.forecast_speedup:.2f}x", ""),
        ("the same, were skipping free", f"{result.forecast_ideal:.2f}x", ""),
    ]
    lines = ["| what | measured | goal |", "|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=15, help="rounds of four evaluations each")
    parser.add_argument("--samplings", type=int, default=2, help="whole samplings of each kind")
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    version = start_comfyui()
    torch.set_num_threads(1)
    result = measure(arguments.repeats, arguments.samplings, arguments.steps)
    machine = f"ComfyUI {version}, torch {torch.__version__}, {platform.processor() or 'CPU'}"
    tokens = SIZE[0] * SIZE[1] * SIZE[2] // 4
    model = f"Wan of width {WIDTH}, {DEPTH} blocks, {tokens} tokens, {MODEL_TYPE}"
    figures = {"machine": f"{machine}, one thread, processor time", "model": model}
    write_whole(f"comfyui-{version}", {**figures, "result": asdict(result)})
    print(f"\n{figures['machine']}\n{model}\n\n{table(result)}\n\n{result.schedule}")


if __name__ == "__main__":
    main()
