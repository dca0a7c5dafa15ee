"""Measures MagCache's gain and cost on full-size models with random weights on one GPU.

    python -m bench.gpu                         every case, about seven minutes on an H200
    python -m bench.gpu --cases flux wan        some of them
    python -m bench.gpu --tiny --device cpu     the same code on tiny models, in seconds
    python -m bench.gpu --page docs/gpu.json    rewrites docs/gpu.md from its figures

Figures are written after each measurement, so an interrupted run keeps what it has measured.
"""

import argparse
import json
import platform
import subprocess
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import diffusers
import torch

from .cases import CASES
from .measure import Bench, OutOfTime
from .page import page

NO_TIME = "no time left"


def machine(device: torch.device) -> str:
    """The machine and the versions that the figures are measured with."""
    parts = [f"diffusers {diffusers.__version__}", f"Python {platform.python_version()}"]
    if device.type != "cuda":
        return ", ".join([platform.processor() or "CPU", f"torch {torch.__version__}", *parts])
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    gpu = f"{torch.cuda.get_device_name(device)} ({memory:.0f} GiB)"
    return ", ".join([gpu, f"driver {' '.join(driver[:1])}", f"torch {torch.__version__}", *parts])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="use tiny models, to test the code")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seconds", type=float, default=540, help="start nothing after this time")
    parser.add_argument("--output", type=Path, default=Path("bench-output/gpu.json"))
    parser.add_argument(
        "--page", type=Path, nargs="+", metavar="JSON",
        help="measure nothing; add the cases of the other files to the first and write its page",
    )  # fmt: skip
    arguments = parser.parse_args()
    if arguments.page:
        write_page(*arguments.page)
        return
    device = torch.device(arguments.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    if device.type == "cpu":
        torch.set_num_threads(1)
    cases = [CASES[name](arguments.tiny) for name in arguments.cases]
    left_out = {case.name: NO_TIME for case in cases}
    began = time.monotonic()

    def save() -> None:
        figures = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine(device),
            "dtype": str(dtype).removeprefix("torch."),
            "cases": [asdict(each) for each in bench.figures],
            "left_out": left_out,
        }
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")

    bench = Bench(device, dtype, began + arguments.seconds, save)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for case in cases:
        try:
            bench.measure(case)
        except OutOfTime:
            break
        except RuntimeError as error:  # measure the other cases anyway
            traceback.print_exc()
            left_out[case.name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        del left_out[case.name]
        print(f"{case.name}: done after {time.monotonic() - began:.0f} s", flush=True)
    save()
    print(f"\n{write_page(arguments.output)}")


def write_page(path: Path, *others: Path) -> str:
    """Adds the cases of other files to those of `path`, writes its page, and returns it."""
    figures, *rest = (json.loads(p.read_text(encoding="utf-8")) for p in (path, *others))
    for other in rest:
        if other["machine"] != figures["machine"]:
            raise ValueError(f"the machines differ: {other['machine']} and {figures['machine']}")
        new = {case["name"] for case in other["cases"]}
        figures["cases"] = [c for c in figures["cases"] if c["name"] not in new] + other["cases"]
        kept = {name: why for name, why in figures["left_out"].items() if name not in new}
        figures["left_out"] = {**kept, **other["left_out"]}
    text = page(figures)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
