"""Calibration files in ComfyUI's user folder."""

import logging
import re
import time
from pathlib import Path

from ...calibration import Calibration, CalibrationError, Measurement
from . import host
from .families import class_name
from .sampling import Sampling

log = logging.getLogger("magcache")


def folder() -> Path:
    """Where calibrations are kept: magcache/ in ComfyUI's user folder."""
    return host.user_folder() / "magcache"


def names() -> list[str]:
    """File names of the calibrations there are, the newest first."""
    found = folder().glob("*.json") if folder().is_dir() else []
    return [path.name for path in sorted(found, key=lambda p: (-p.stat().st_mtime, p.name))]


def find(name: str) -> Path:
    """The file of a calibration.

    Raises:
        CalibrationError: The name leads out of the folder, or there is no such file.
    """
    path = folder() / name
    if Path(name).name != name or "\\" in name:
        raise CalibrationError(f"{name!r} is not the name of a file in {folder()}")
    if not path.is_file():
        there = ", ".join(names()) or "no calibration yet; MagCache Calibration makes one"
        raise CalibrationError(f"there is no calibration {name} in {folder()}: there is {there}")
    return path


def load(name: str, model: str) -> Calibration:
    """A calibration of one model.

    Args:
        name: The file's name.
        model: Class name of the model it is to be used on.

    Raises:
        CalibrationError: The file is missing, broken, or was measured on another model.
    """
    calibration = Calibration.load(find(name))
    if calibration.model != model:
        raise CalibrationError(
            f"{name} was measured on {calibration.model}, but the model is {model}: calibrate "
            "this model"
        )
    return calibration


def save(sampling: Sampling, label: str) -> str:
    """Writes what a calibrating sampling has measured; the summary that the node shows.

    A file that cannot be written is part of the summary: the image is ready by then.
    """
    branches = sampling.measured()
    if not branches:
        reasons = sampling.report().warnings
        return "MagCache Calibration: nothing was measured" + "".join(f": {r}" for r in reasons)
    steps = sampling.steps
    settings = {"model_type": label, "steps": steps, **sampling.made_with}
    path = _new_path(f"{label}-{steps}steps-{time.strftime('%Y%m%d-%H%M%S')}")
    calibration = Calibration(class_name(sampling.patcher), branches, settings, name=path.stem)
    try:
        result = f"written to {calibration.save(path)}"
    except OSError as error:
        result = f"NOT written: {error}"
    lines = [f"MagCache Calibration: {steps} steps, {result}"]
    lines += [_summary(branch, measured) for branch, measured in branches.items()]
    return "\n".join(lines)


def _new_path(name: str) -> Path:
    """A file that is not there yet: two samplings may end within a second."""
    name = re.sub(r"[^\w.+-]+", "_", name)
    path, number = folder() / f"{name}.json", 1
    while path.exists():
        number += 1
        path = folder() / f"{name}-{number}.json"
    return path


def _summary(branch: str, measured: Measurement) -> str:
    ratios = measured.ratios[1:]
    if not ratios:
        return f"{branch}: one evaluation, nothing to compare it with"
    spread, distance = max(measured.spreads), max(measured.cosine_distances)
    return (
        f"{branch}: {len(measured.ratios)} evaluations, ratio {min(ratios):.4f} to "
        f"{max(ratios):.4f}, spread at most {spread:.4f}, cosine distance at most {distance:.4f}"
    )
