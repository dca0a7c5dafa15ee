"""Calibration files in ComfyUI's user folder."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...blocks import plain_module
from ...calibrate import identity_of, sampled_hash
from ...curves import (
    Calibration,
    CalibrationError,
    Found,
    Identity,
    Measurement,
    Notebook,
    Store,
)
from . import host
from .models import class_name
from .settings import Ended, Settings

log = logging.getLogger("magcache")
_NETWORK = "diffusion_model"  # in the names of a model's weights


def folder() -> Path:
    """The folder of the calibrations: magcache/ in ComfyUI's user folder."""
    import folder_paths

    return Path(folder_paths.get_user_directory()) / "magcache"


def names() -> list[str]:
    """File names of all stored calibrations, newest first."""
    return [f"{name}.json" for name in Store(folder()).names()]


def find(name: str) -> Path:
    """The file of a calibration.

    Raises:
        CalibrationError: The name is invalid, or there is no such file.
    """
    path = Store(folder()).path(name)
    if not os.path.lexists(path):
        there = ", ".join(names()) or "no calibration yet; MagCache Calibration makes one"
        raise CalibrationError(f"there is no calibration {name} in {folder()}, which has {there}")
    return path


def is_there(name: str) -> bool | str:
    """True if there is a calibration of this name, otherwise why it cannot be used."""
    try:
        return bool(find(name))
    except CalibrationError as error:
        return str(error)


def changed(name: str | None) -> float:
    """When a file was last written, so that ComfyUI notices a replaced file. 0 without a file."""
    try:
        return find(name or "").stat().st_mtime
    except (CalibrationError, OSError):
        return 0.0


def nearest(patcher: Any, made_with: Mapping[str, Any]) -> Found | None:
    """The stored calibration that fits a model and a run's settings best, or None.

    Args:
        patcher: The ModelPatcher.
        made_with: The sampling, see `host.described`.
    """
    return Store(folder()).nearest(identity(patcher), made_with["sigmas"][:-1], made_with)


def notebook(patcher: Any) -> Notebook:
    """What earlier runs have taught about a model."""
    return Notebook(folder() / "learned", identity(patcher))


def identity(patcher: Any) -> Identity:
    """Identity of the model without its patches, and of the patches.

    ComfyUI patches weights in place when it loads them, possibly for another clone of the model,
    and keeps the originals.
    """
    network = plain_module(patcher.model.diffusion_model)
    originals = {name: held[0] for name, held in getattr(patcher, "hook_backup", {}).items()}
    originals |= {name: held.weight for name, held in patcher.backup.items()}
    kept: dict[torch.Tensor, torch.Tensor] = {}
    for name, parameter in network.named_parameters():
        if (original := originals.get(f"{_NETWORK}.{name}")) is not None:
            kept[parameter] = original
    return identity_of(network, patches=_patches(patcher.patches), kept=kept)


def _patches(patches: Mapping[str, Sequence[Any]]) -> str:
    """Describes patches by their content: ComfyUI's own id of a LoRA changes with each run."""
    if not patches:
        return ""
    contents = [value for key in sorted(patches) for value in (key, *_contents(patches[key]))]
    return f"{len(patches)} patched weights {sampled_hash(contents) or ''}".rstrip()


def _contents(value: Any) -> Iterator[torch.Tensor | str]:
    """The tensors of a patch, and strength, part, kind and function as text."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _contents(each)
    elif value is None or isinstance(value, int | float | str):
        yield repr(value)
    else:
        yield getattr(value, "__qualname__", type(value).__qualname__)
        yield from _contents(getattr(value, "weights", None))  # of an adapter


def load(name: str, model: str) -> Calibration:
    """Loads a calibration for a model.

    Args:
        name: The file's name.
        model: Class name of the model.

    Raises:
        CalibrationError: The file is missing or broken, or was measured on another model.
    """
    calibration = Calibration.load(find(name))
    if not calibration.fits(model):
        raise CalibrationError(
            f"{name} {calibration.origin}, but the model is {model}: calibrate this model"
        )
    return calibration


def measuring(node_id: str | None, model_type: str = "") -> Settings:
    """Settings for a run that is measured.

    Args:
        node_id: The node that shows the summary.
        model_type: What to name the file after; "" names it so that later runs of the model
            replace it.
    """

    def finished(sampling: Ended) -> None:
        told, figures = _saved(sampling, model_type)
        if not sampling.report().missing:  # a warning has said why
            log.info("MagCache Calibration: %s", told)
        for line in figures:
            log.debug("MagCache Calibration: %s", line)
        host.show(told, node_id)

    label = f"{model_type} calibration" if model_type else "measuring"
    return Settings(label=label, finished=finished)


def _saved(sampling: Ended, model_type: str) -> tuple[str, list[str]]:
    """Stores what a run has measured. Returns the node's text, and figures for the log.

    A file that cannot be written raises no error, because the image is ready by then.
    """
    try:
        branches = sampling.measured()
    except CalibrationError as error:
        return f"nothing was stored: {error}", []
    if not branches:
        reasons = sampling.report().warnings
        return "nothing was measured" + "".join(f": {r}" for r in reasons), []
    named = {"model_type": model_type} if model_type else {}
    calibration = Calibration(
        class_name(sampling.patcher),
        branches,
        {**named, "steps": sampling.steps, **sampling.made_with},
        identity=asdict(identity(sampling.patcher)),
    )
    try:
        store, now = Store(folder()), time.strftime("%Y%m%d-%H%M%S")
        if model_type:
            path = store.add(calibration, f"{model_type}-{sampling.steps}steps-{now}")
        else:  # replaces one made with the same settings
            path = store.save(calibration)
        result = f"stored as {path.stem}"
        result += "" if model_type else "; the next run of this model will be faster"
        figures = [f"written to {path}"]
    except (CalibrationError, OSError) as error:
        result, figures = f"NOT stored: {error}", []
    figures += [_summary(branch, measured) for branch, measured in branches.items()]
    return f"{sampling.steps} steps measured, {result}", figures


def _summary(branch: str, measured: Measurement) -> str:
    ratios = measured.ratios[1:]
    if not ratios:
        return f"{branch}: only one evaluation"
    spread, distance = max(measured.spreads), max(measured.cosine_distances)
    return (
        f"{branch}: {len(measured.ratios)} evaluations, ratio {min(ratios):.4f} to "
        f"{max(ratios):.4f}, spread at most {spread:.4f}, cosine distance at most {distance:.4f}"
    )
