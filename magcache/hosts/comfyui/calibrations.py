"""Calibration files in ComfyUI's user folder."""

import logging
import re
import time
from pathlib import Path
from typing import Any

from ...calibration import Calibration, Measurement
from .families import class_name
from .sampling import Sampling

log = logging.getLogger("magcache")


def folder() -> Path:
    """Where calibrations are kept: magcache/ in ComfyUI's user folder."""
    import folder_paths

    return Path(folder_paths.get_user_directory()) / "magcache"


def names() -> list[str]:
    """File names of the calibrations there are, the newest first."""
    found = folder().glob("*.json") if folder().is_dir() else []
    return [path.name for path in sorted(found, key=lambda p: -p.stat().st_mtime)]


def save(sampling: Sampling, label: str) -> str:
    """Writes what a calibrating sampling has measured; the summary that the node shows."""
    branches = sampling.measured()
    if not branches:
        return "MagCache Calibration: nothing was measured" + _because(sampling.missing)
    steps = sampling.steps
    settings = {"host": f"ComfyUI {comfyui_version()}", "model_type": label, "steps": steps}
    name = re.sub(r"[^\w.+-]+", "_", f"{label}-{steps}steps-{time.strftime('%Y%m%d-%H%M%S')}")
    kind = class_name(sampling.patcher)
    path = Calibration(kind, branches, settings, name=name).save(folder() / f"{name}.json")
    lines = [f"MagCache Calibration: {steps} steps, written to {path}"]
    lines += [_summary(branch, measured) for branch, measured in branches.items()]
    return "\n".join(lines)


def comfyui_version() -> str:
    """Version of the ComfyUI around us."""
    try:
        import comfyui_version as comfyui

        return comfyui.__version__
    except ImportError:
        return "of unknown version"


def _summary(branch: str, measured: Measurement) -> str:
    ratios: list[Any] = measured.ratios[1:] or measured.ratios
    spread, distance = max(measured.spreads), max(measured.cosine_distances)
    return (
        f"{branch}: ratio {min(ratios):.4f} to {max(ratios):.4f}, "
        f"spread at most {spread:.4f}, cosine distance at most {distance:.4f}"
    )


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
