"""MagCache with every sampler and several schedulers of ComfyUI, on the bundled emoji model.

    COMFYUI_PATH=~/ComfyUI path/to/its/python bench/samplers.py docs/samplers.md

Needs a ComfyUI that reads FLUX's width from the weights, and its requirements. Runs on the CPU.
"""

import argparse
import base64
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from magcache.decide import rule_of

ROOT = Path(__file__).parents[1]
EMOJI = ROOT / "models" / "emoji"
SCHEDULERS = ("simple", "normal", "beta", "karras")
ADAPTIVE = "dpm_adaptive"
PROMPTS = ("fox face", "red heart", "pizza", "crescent moon")
TITLE = "# Samplers and schedulers\n\n"
HEADER = "| sampler | " + " | ".join(SCHEDULERS) + " |\n|---|" + "---|" * len(SCHEDULERS)


@dataclass(frozen=True)
class Setting:
    """How the table is made."""

    steps: int
    threshold: float
    max_skip: int
    retention: float


@dataclass(frozen=True)
class Cell:
    """One sampler with one scheduler.

    Attributes:
        expected: Evaluations of the uncached run.
        evaluations, computed: Those of the cached run.
        difference: RMS difference from the uncached result, relative to its RMS.
    """

    expected: int
    evaluations: int
    computed: int
    difference: float

    def __str__(self) -> str:
        wrong = "" if self.evaluations == self.expected else f" (uncached {self.expected})"
        return f"{self.computed} of {self.evaluations}{wrong}, {self.difference:.3f}"


class Bench:
    """The emoji model in a ComfyUI in this process."""

    def __init__(self, checkout: Path, setting: Setting, prompts: tuple[str, ...]) -> None:
        _import_comfyui(checkout)
        import comfy.sd
        import torch

        torch.set_num_threads(1)
        logging.getLogger("magcache").setLevel(logging.WARNING)
        self.setting = setting
        weights = str(EMOJI / "diffusion_pytorch_model.safetensors")
        options = {"dtype": torch.float32}
        self.model = comfy.sd.load_diffusion_model(weights, model_options=options)
        emoji = json.loads((EMOJI / "emoji.json").read_text())
        self._words = emoji["vocabulary"]
        table = bytearray(base64.b64decode(emoji["embedding"]["base64"]))
        shape = emoji["embedding"]["shape"]
        self._table = torch.frombuffer(table, dtype=torch.float16).reshape(shape).float()
        self._prompts = [p for p in prompts if all(word in self._words for word in p.split())]
        if not self._prompts:
            raise SystemExit(f"the emoji model knows no words of {', '.join(prompts)}")

    def cell(self, sampler: str, scheduler: str) -> Cell:
        import torch

        counted: list[float] = []
        plain = self.model.clone()

        def count(executor: Any, *args: Any, **kwargs: Any) -> Any:
            counted.append(float(args[1].flatten()[0]))
            return executor(*args, **kwargs)

        plain.add_wrapper_with_key("predict_noise", "count", count)
        uncached = self._sample(plain, sampler, scheduler)
        model, samplings = self._cached()
        output = self._sample(model, sampler, scheduler)
        runs = [run for sampling in samplings for run in sampling.report().runs]
        error = torch.linalg.vector_norm(output - uncached) / torch.linalg.vector_norm(uncached)
        evaluations = [len(run.evaluations) for run in runs]
        computed = [run.computed for run in runs]
        several = len(runs)
        return Cell(
            round(len(counted) / several),
            round(sum(evaluations) / several),
            round(sum(computed) / several),
            float(error),
        )

    def _cached(self) -> tuple[Any, list[Any]]:
        from magcache.curves import presets
        from magcache.hosts.comfyui.settings import Settings
        from magcache.hosts.comfyui.wrappers import install

        source, wanted = presets.load("emoji"), self.setting
        rule = replace(
            rule_of(source),
            threshold=wanted.threshold,
            max_skip=wanted.max_skip,
            retention=wanted.retention,
        )
        samplings: list[Any] = []
        settings = Settings(source, rule, label="emoji", finished=samplings.append)
        return install(self.model, settings), samplings

    def _sample(self, model: Any, sampler: str, scheduler: str) -> Any:
        """All prompts, one after another. CFG++ takes CFG as its own, much smaller scale."""
        import comfy.sample
        import torch

        latent = torch.zeros(1, 16, 16, 16)
        cfg = 1.0 if "cfg_pp" in sampler else 3.0
        outputs = []
        for seed, prompt in enumerate(self._prompts):
            noise = comfy.sample.prepare_noise(latent, seed)
            conds = self._cond(prompt), self._cond("")
            outputs.append(
                comfy.sample.sample(
                    model, noise, self.setting.steps, cfg, sampler, scheduler, *conds, latent,
                    disable_pbar=True, seed=seed,
                )
            )  # fmt: skip
        return torch.cat(outputs)

    def _cond(self, prompt: str) -> list[Any]:
        import torch

        tokens = [self._words.index(word) for word in prompt.split()]
        embedded = self._table[torch.tensor([tokens + [0] * (8 - len(tokens))])]
        return [[embedded, {"pooled_output": embedded.mean(1)}]]


def _import_comfyui(checkout: Path) -> None:
    if not (checkout / "comfy" / "sd.py").exists():
        raise SystemExit(f"COMFYUI_PATH={checkout} is no ComfyUI checkout")
    sys.path[:0] = [str(checkout), str(ROOT)]
    arguments, sys.argv = sys.argv, [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.sd

    sys.argv = arguments


def table(bench: Bench) -> Iterator[str]:
    """One row a sampler."""
    import comfy.samplers

    for sampler in comfy.samplers.KSampler.SAMPLERS:
        cells = [str(bench.cell(sampler, scheduler)) for scheduler in SCHEDULERS]
        yield f"| {sampler} | {' | '.join(cells)} |"


def page(bench: Bench, version: str, command: str) -> Iterator[str]:
    """The whole page, line by line."""
    setting, prompts = bench.setting, len(bench._prompts)
    yield TITLE + (
        f"Each sampler of ComfyUI {version} with four schedulers on the bundled emoji model: "
        f"{setting.steps} steps, CFG 3 (1 for CFG++), threshold {setting.threshold:g}, K "
        f"{setting.max_skip}, retention {setting.retention:g}, {prompts} prompt"
        f"{'s' if prompts > 1 else ''}. A cell says how many evaluations were computed, and the "
        "RMS difference of the latent from the uncached result of the same sampler, relative to "
        f"its RMS. Every evaluation is counted once; {ADAPTIVE} chooses its steps by what the "
        "model gives, so a cached run of it may have another number of them.\n\n"
        f"Made by `{command}`; it takes a few minutes on a CPU.\n"
    )
    yield HEADER
    yield from table(bench)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("output", type=Path, help="the Markdown file to write")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threshold", type=float, default=0.12)
    parser.add_argument("--max-skip", type=int, default=1)
    parser.add_argument("--retention", type=float, default=0.2)
    parser.add_argument("--prompts", nargs="+", default=PROMPTS[:1])
    args = parser.parse_args()
    setting = Setting(args.steps, args.threshold, args.max_skip, args.retention)
    checkout = Path(os.environ.get("COMFYUI_PATH", "")).expanduser()
    bench = Bench(checkout, setting, tuple(args.prompts))
    import comfyui_version

    started = time.perf_counter()
    lines = []
    for line in page(bench, comfyui_version.__version__, "bench/samplers.py docs/samplers.md"):
        print(line, flush=True)
        lines.append(line)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written to {args.output} in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
