"""Measures the emoji model's magnitude ratios and writes them as the preset `emoji`.

    python -m tools.train_emoji.calibrate

This is the published calibration, on the prompts of the "calibration" split. Tests, demo and
benchmarks do not sample these prompts.
"""

import argparse
import json
from pathlib import Path

import torch

import magcache
from magcache.curves import presets
from magcache.emoji import image as emoji

STEPS = 28
CFG = 3.0
SETTINGS = {"threshold": 0.12, "retention": 0.1, "max_skip": 2}


def calibrate(path: Path) -> None:
    model = emoji.load()
    prompts = model.prompts("calibration")
    with magcache.apply(model.pipe, calibrate=True) as applied:
        model.generate(prompts, seeds=list(range(1000, 1000 + len(prompts))), steps=STEPS, cfg=CFG)
        measured = applied.calibration().branches
    first = next(iter(measured.values()))
    preset = {
        "name": "emoji",
        "family": "flux",
        "steps": STEPS,
        **SETTINGS,
        "sigmas": [round(sigma, 6) for sigma in first.sigmas],
        "sigmas_from": "measured: evenly spaced, shift 1",
        "reference": {"sampler": "euler", "shift": 1, "cfg": CFG, "basis": "measured"},
        "source": "tools/train_emoji/calibrate.py",
        "note": f"The bundled emoji model; measured on {len(prompts)} prompts.",
        "ratios": {b: [round(r, 5) for r in m.ratios] for b, m in measured.items()},
    }
    path.write_text(json.dumps(preset, indent=1) + "\n", encoding="utf-8")
    for branch, measurement in measured.items():
        print(f"{branch}: ratios {min(measurement.ratios):.3f} to {max(measurement.ratios):.3f}")
    print(f"wrote {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    folder = Path(presets.__file__).parent
    parser.add_argument("--path", type=Path, default=folder / "emoji.json")
    torch.set_num_threads(1)  # the fastest for a model of this size
    calibrate(**vars(parser.parse_args()))
