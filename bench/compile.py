"""How long compiling takes, block by block and as a whole, inside a real ComfyUI.

    COMFYUI_PATH=~/ComfyUI path/to/its/python -m bench.compile

Each row is a process of its own with empty caches: the first sampling less a warm one is what
compiling took. Processor time, that of the C++ compiler included: machines are shared. On a CPU;
about fifteen minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OUTPUT = Path("bench-output")
TESTS = Path(__file__).parents[1] / "tests" / "comfyui"
STEPS = 8
MODELS = ("emoji", "wan 16")
WAYS = ("not compiled", "Compile Model", "TorchCompileModel")


@dataclass
class Result:
    """Processor seconds: compiling, and a warm sampling of `STEPS` steps with CFG.

    `graphs` is how many graphs were compiled, `skipped` how many evaluations MagCache skipped.
    """

    model: str
    way: str
    magcache: bool
    compiling: float
    sampling: float
    graphs: int
    skipped: int


def measure(name: str, way: str, cached: bool, backend: str) -> Result:
    """One row, in this process, which must be a fresh one."""
    _start_comfyui()
    import tiny_models
    import torch
    import watch
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from torch._dynamo.utils import counters

    from magcache.hosts.comfyui.nodes import CompileModel

    torch.set_num_threads(1)
    spec = tiny_models.TINY["flux" if name == "emoji" else "wan_t2v"]
    model = _emoji() if name == "emoji" else spec.build(depth=16)
    latent = torch.zeros(1, 16, 16, 16) if name == "emoji" else spec.latent()
    conds = _emoji_conds() if name == "emoji" else spec.conds(model)
    runs: list[Any] = []
    if cached:
        watched = watch.cached(model, spec, threshold=10.0)
        model, runs = watched.model, watched.samplings
    if way == "Compile Model":
        (model,) = CompileModel().apply(model, "default", backend, False, False)
    elif way == "TorchCompileModel":
        model = model.clone()
        options = {"guard_filter_fn": lambda g: ["transformer_options" not in e.name for e in g]}
        set_torch_compile_wrapper(model, backend=backend, options=options)

    def seconds() -> float:
        began = _processor_seconds()
        tiny_models.sample(model, spec, STEPS, latent=latent, conds=conds)
        return _processor_seconds() - began

    first = seconds()
    warm = min(seconds() for _ in range(4))
    skipped = runs[-1].report().skipped if runs else 0
    compiling = first - warm if way != WAYS[0] else 0.0
    graphs = counters["stats"]["unique_graphs"]
    return Result(name, way, cached, compiling, warm, graphs, skipped)


def _processor_seconds() -> float:
    """Of this process and those it has started and waited for: inductor runs a C++ compiler."""
    return sum(os.times()[:4])


def _start_comfyui() -> None:
    sys.path[:0] = [str(TESTS), os.path.expanduser(os.environ["COMFYUI_PATH"])]
    arguments, sys.argv = sys.argv, [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.sd

    sys.argv = arguments


def _emoji() -> Any:
    import comfy.sd
    import torch

    path = Path("models/emoji/diffusion_pytorch_model.safetensors")
    return comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})


def _emoji_conds() -> Any:
    import torch

    values = torch.Generator().manual_seed(1)
    texts = [torch.randn(1, 8, 128, generator=values) for _ in range(2)]
    return tuple([[text, {"pooled_output": text.mean(1)}]] for text in texts)


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| model | compiled by | MagCache | graphs | compiling, s | times shorter than whole "
        "| sampling, s |",
        "|---|---|---|---|---|---|---|",
    ]
    whole = {r.model: r.compiling for r in results if r.way == WAYS[2] and not r.magcache}
    for r in results:
        shorter = f"{whole[r.model] / r.compiling:.1f}" if r.compiling and r.model in whole else ""
        on = f"{r.skipped} of {STEPS} skipped" if r.magcache else ""
        compiling = f"{r.compiling:.1f}" if r.graphs else ""
        lines.append(
            f"| {r.model} | {r.way} | {on} | {r.graphs or ''} | {compiling} | {shorter} "
            f"| {r.sampling:.2f} |"
        )
    return "\n".join(lines)


def _fresh(name: str, way: str, cached: bool, backend: str) -> Result:
    """One row from a process of its own, with empty caches."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "TORCHINDUCTOR_CACHE_DIR": folder,
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        arguments = ["--row", name, way, str(int(cached)), "--backend", backend]
        done = subprocess.run(
            [sys.executable, "-m", "bench.compile", *arguments],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        name, way, cached = arguments.row
        print(json.dumps(asdict(measure(name, way, cached == "1", arguments.backend))))
        return
    results = []
    for name in MODELS:
        for way in WAYS:
            for cached in (False, True):
                results.append(_fresh(name, way, cached, arguments.backend))
                print(table(results[-1:]).splitlines()[-1], flush=True)
                OUTPUT.mkdir(exist_ok=True)
                path = OUTPUT / f"compile-{arguments.backend}.md"
                path.write_text(table(results) + "\n", encoding="utf-8")
    print(f"\n{table(results)}")


if __name__ == "__main__":
    main()
