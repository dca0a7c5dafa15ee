"""Measures how long compilation takes, per block and as a whole, in a real ComfyUI.

    COMFYUI_PATH=~/ComfyUI path/to/its/python -m bench.compile

Each compilation runs in its own process: once with an empty disk cache, and once with what torch
caches for all models, its checks of the C++ compiler and a precompiled header. Compiling one line
of code creates both, so its time is the minimum for any model. Samplings run alternately in one
process. Times are processor time, including the C++ compiler, because machines are shared. Takes
about eight minutes on a CPU.
"""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .kept import write_whole

TESTS = Path(__file__).parents[1] / "tests" / "comfyui"
STEPS = 8
ROUNDS = 30
MODELS = ("emoji", "wan 16")
NOT_COMPILED, BY_BLOCKS, WHOLE = "not compiled", "Compile Model", "TorchCompileModel"
WAYS = (NOT_COMPILED, BY_BLOCKS, WHOLE)
START_UP = "one line of code"


@dataclass
class Compilation:
    """What one process has measured.

    Attributes:
        model: One of `MODELS`; "" for the start-up.
        way: How it was compiled.
        prepared: Whether the disk held what torch caches for all models.
        seconds: Processor time of applying the node and sampling, minus that of a second sampling.
        wall: The same in wall time.
        graphs: Number of compiled graphs.
    """

    model: str
    way: str
    prepared: bool
    seconds: float
    wall: float
    graphs: int


def compilation(name: str, way: str, prepared: bool, backend: str) -> Compilation:
    """Compiles in this process, which must be new."""
    _start_comfyui()
    import torch

    torch.set_num_threads(1)
    if not name:
        began = _clocks()
        _compile_line(backend)
        return Compilation(name, way, prepared, *_since(began), 1)
    model, sample = _load(name)
    sample(model)  # warms up everything but compilation
    began = _clocks()
    model = _compiled(model, way, backend)
    sample(model)
    first, first_wall = _since(began)
    began = _clocks()
    sample(model)
    again, again_wall = _since(began)
    from torch._dynamo.utils import counters

    graphs = counters["stats"]["unique_graphs"]
    return Compilation(name, way, prepared, first - again, first_wall - again_wall, graphs)


def samplings(name: str, backend: str) -> dict[str, float]:
    """Median processor time of `STEPS` steps with CFG for each way, measured alternately."""
    _start_comfyui()
    import torch

    torch.set_num_threads(1)
    model, sample = _load(name)
    models = {way: _compiled(model, way, backend) for way in WAYS}
    for each in models.values():
        sample(each)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way in random.sample(WAYS, len(WAYS)):
            began = _clocks()
            sample(models[way])
            seconds[way].append(_since(began)[0])
    return {way: median(each) for way, each in seconds.items()}


def _clocks() -> tuple[float, float]:
    """Processor time of this process and its finished children, and wall time."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used), time.perf_counter()


def _since(began: tuple[float, float]) -> tuple[float, float]:
    processor, wall = _clocks()
    return processor - began[0], wall - began[1]


def _start_comfyui() -> None:
    sys.path[:0] = [str(TESTS), os.path.expanduser(os.environ["COMFYUI_PATH"])]
    arguments, sys.argv = sys.argv, [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.sd

    sys.argv = arguments


def _compile_line(backend: str) -> None:
    import torch

    number = int(time.time())  # a different graph each time, so that none is in the disk cache
    torch.compile(lambda x: x.sin() + number, backend=backend)(torch.ones(64, 64))


def _load(name: str) -> tuple[Any, Callable[[Any], Any]]:
    """A model, and a function that samples a clone of it."""
    import tiny_models
    import torch

    spec = tiny_models.TINY["flux" if name == "emoji" else "wan_t2v"]
    model = _emoji() if name == "emoji" else spec.build(depth=16)
    latent = torch.zeros(1, 16, 16, 16) if name == "emoji" else spec.latent()
    conds = _emoji_conds() if name == "emoji" else spec.conds(model)
    return model, lambda m: tiny_models.sample(m, spec, STEPS, latent=latent, conds=conds)


def _compiled(model: Any, way: str, backend: str) -> Any:
    if way == NOT_COMPILED:
        return model
    if way == BY_BLOCKS:
        from magcache.hosts.comfyui.nodes.compile import CompileModel

        return CompileModel().apply(model, "default", backend, False, False)[0]
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = model.clone()
    options = {"guard_filter_fn": lambda g: ["transformer_options" not in e.name for e in g]}
    set_torch_compile_wrapper(model, backend=backend, options=options)
    return model


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


def measure(backend: str) -> tuple[list[Compilation], dict[str, dict[str, float]]]:
    """Measures every compilation, both ways of a model in succession, and then samplings."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        # The same path for all, because the files in the disk cache contain it.
        cache, kept, all_graphs = (Path(folder, name) for name in ("cache", "kept", "all"))
        for name, way, prepared in _rows():
            shutil.copytree(kept, cache) if prepared else cache.mkdir()
            arguments = [name, way, "prepared" if prepared else "", "--backend", backend]
            found.append(Compilation(**_fresh(cache, "--row", *arguments)))
            print(found[-1], flush=True)
            if not kept.exists():
                shutil.copytree(cache, kept)
            shutil.copytree(cache, all_graphs, dirs_exist_ok=True)
            shutil.rmtree(cache)
        all_graphs.rename(cache)
        sampled = {
            name: _fresh(cache, "--samplings", name, "--backend", backend) for name in MODELS
        }
    return found, sampled


def _rows() -> Iterator[tuple[str, str, bool]]:
    yield "", START_UP, False
    yield "", START_UP, True
    for prepared in (True, False):
        for name in MODELS:
            for way in (BY_BLOCKS, WHOLE):
                yield name, way, prepared


def _fresh(cache: Path, *arguments: str) -> dict[str, Any]:
    """The output of a new process; `cache` is torch's disk cache."""
    environment = {
        **os.environ,
        "TMPDIR": str(cache),  # for the header, which torch stores outside its cache
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench.compile", *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def table(found: list[Compilation], sampled: dict[str, dict[str, float]]) -> str:
    """The figures as a Markdown table."""
    seconds = {(each.model, each.way, each.prepared): each.seconds for each in found}
    graphs = {(each.model, each.way): str(each.graphs) for each in found}
    cold, start_up = (seconds["", START_UP, prepared] for prepared in (False, True))
    lines = [
        "| model | compiled by | graphs | nothing on the disk, s | new process, s "
        "| new process less start-up, s | a sampling, s |",
        "|---|---|---|---|---|---|---|",
        _line("", START_UP, "1", [f"{cold:.1f}", f"{start_up:.1f}", "", ""]),
    ]
    for name in MODELS:
        figures = {
            way: [
                seconds[name, way, False],
                seconds[name, way, True],
                seconds[name, way, True] - start_up,
                sampled[name][way],
            ]
            for way in (BY_BLOCKS, WHOLE)
        }
        lines.append(
            _line(name, NOT_COMPILED, "", ["", "", "", f"{sampled[name][NOT_COMPILED]:.3f}"])
        )
        for way, (*compiling, sampling) in figures.items():
            cells = [*(f"{each:.1f}" for each in compiling), f"{sampling:.3f}"]
            lines.append(_line(name, way, graphs[name, way], cells))
        pairs = zip(figures[WHOLE], figures[BY_BLOCKS], strict=True)
        lines.append(_line(name, "whole / blocks", "", [f"{w / b:.2f}" for w, b in pairs]))
    return "\n".join(lines)


def _line(name: str, way: str, graphs: str, cells: list[str]) -> str:
    return f"| {' | '.join((name, way, graphs, *cells))} |"


def page(found: list[Compilation], sampled: dict[str, dict[str, float]]) -> str:
    """The table, and the machine it was measured on."""
    import torch

    slower = sum(each.wall for each in found) / sum(each.seconds for each in found)
    return (
        f"{time.strftime('%Y-%m-%d')}: {os.cpu_count()} {platform.machine()} cores, torch "
        f"{torch.__version__}, one thread, processor time; the wall clock showed {slower:.2f} "
        f"times as much.\n\n{table(found, sampled)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--samplings", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        name, way, prepared = arguments.row
        print(json.dumps(asdict(compilation(name, way, bool(prepared), arguments.backend))))
        return
    if arguments.samplings:
        print(json.dumps(samplings(arguments.samplings, arguments.backend)))
        return
    found, sampled = measure(arguments.backend)
    figures = {"compilations": [asdict(each) for each in found], "samplings": sampled}
    write_whole(f"compile-{arguments.backend}", figures)
    print(f"\n{page(found, sampled)}")


if __name__ == "__main__":
    main()
