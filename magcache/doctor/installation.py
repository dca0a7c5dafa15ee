"""Finds a user's ComfyUI and the Python that runs it."""

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

_PARTS = ("main.py", "nodes.py", "folder_paths.py", "comfy/sd.py")
_EMBEDDED = ("python_embeded", "python_embedded")  # portable installs use the first spelling


_PAGE = "comfyui_frontend_package"  # every ComfyUI requires it, and nothing else does
RUNNING = "it runs this command"
GUESSED = "it runs this command, and there is no venv, .venv or python_embeded"


class CannotCheck(ValueError):
    """An installation cannot be checked; the message says why and what to do."""


@dataclass(frozen=True)
class Installation:
    """A ComfyUI.

    Attributes:
        folder: The folder that holds its main.py.
        base: The folder that holds its custom_nodes, models and user folders.
        python: The Python that runs it.
        python_from: How that was chosen, in words.
    """

    folder: Path
    base: Path
    python: Path
    python_from: str

    @property
    def user_folder(self) -> Path:
        """The folder that calibrations are stored in."""
        return self.base / "user"

    @property
    def embedded(self) -> bool:
        """Whether its Python belongs to a portable install."""
        return self.python.parent.name in _EMBEDDED


def find(path: Path, python: Path | None = None, base: Path | None = None) -> Installation:
    """The installation at a path.

    Args:
        path: The folder that holds ComfyUI's main.py, or its parent.
        python: The Python that runs it. The default is this Python if ComfyUI's packages are
            installed in it, otherwise that of an environment in or next to the folder, otherwise
            this Python.
        base: Its base directory, if that is another folder.

    Raises:
        CannotCheck: There is no ComfyUI, or `python` is not executable.
    """
    folder = _comfyui(path.expanduser().absolute())
    base = folder if base is None else base.expanduser().absolute()
    if not base.is_dir():
        raise CannotCheck(f"the base directory {base} is not a folder")
    if python is None:
        return Installation(folder, base, *_default_python(folder, base))
    python = python.expanduser().absolute()
    if not _runs(python):
        raise CannotCheck(f"--python {python} is not a program: give the path of ComfyUI's python")
    return Installation(folder, base, python, "from --python")


def _comfyui(path: Path) -> Path:
    if not path.is_dir():
        raise CannotCheck(f"{path} is not a folder: give the one that holds ComfyUI's main.py")
    for folder in (path, path / "ComfyUI"):
        if all((folder / part).is_file() for part in _PARTS):
            return folder
    missing = ", ".join(part for part in _PARTS if not (path / part).is_file())
    raise CannotCheck(
        f"{path} is not ComfyUI, as it has no {missing}: give the folder that holds ComfyUI's "
        "main.py"
    )


def _default_python(folder: Path, base: Path) -> tuple[Path, str]:
    if importlib.util.find_spec(_PAGE) is not None:
        return Path(sys.executable), RUNNING
    environments = [
        place / name for place in (folder, base, folder.parent) for name in ("venv", ".venv")
    ]
    embedded = [place / name for place in (folder.parent, folder) for name in _EMBEDDED]
    for environment in environments:
        for program in ("bin/python", "Scripts/python.exe"):
            if _runs(environment / program):
                return environment / program, f"found in {environment}"
    for environment in embedded:
        if _runs(environment / "python.exe"):
            return environment / "python.exe", f"found in {environment}"
    return Path(sys.executable), GUESSED


def _runs(python: Path) -> bool:
    return python.is_file() and os.access(python, os.X_OK)
