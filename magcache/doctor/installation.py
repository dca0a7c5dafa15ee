"""Finding somebody's ComfyUI and the Python that runs it."""

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

_PARTS = ("main.py", "nodes.py", "folder_paths.py", "comfy/sd.py")
_EMBEDDED = ("python_embeded", "python_embedded")  # the first is how portable installs spell it


_PAGE = "comfyui_frontend_package"  # each ComfyUI needs it, and nothing else does
RUNNING = "it runs this command"
GUESSED = "it runs this command, and there is no venv, .venv or python_embeded"


class CannotCheck(ValueError):
    """An installation cannot be checked; says why, and what to do."""


@dataclass(frozen=True)
class Installation:
    """A ComfyUI.

    Attributes:
        folder: Where its main.py is.
        base: Where its custom_nodes, models and user folders are.
        python: What runs it.
        python_from: Why that one, in words.
    """

    folder: Path
    base: Path
    python: Path
    python_from: str

    @property
    def user_folder(self) -> Path:
        """Where calibrations are kept."""
        return self.base / "user"

    @property
    def embedded(self) -> bool:
        """Whether its Python is that of a portable install."""
        return self.python.parent.name in _EMBEDDED


def find(path: Path, python: Path | None = None, base: Path | None = None) -> Installation:
    """The installation at a path.

    Args:
        path: The folder with ComfyUI's main.py, or the one around it.
        python: What runs it. By default it is this Python where ComfyUI's packages are installed
            in it, else that of an environment in the folder or beside it, else this one all the
            same.
        base: Its base directory, where that is another folder.

    Raises:
        CannotCheck: There is no ComfyUI, or `python` is no program.
    """
    folder = _comfyui(path.expanduser().absolute())
    base = folder if base is None else base.expanduser().absolute()
    if not base.is_dir():
        raise CannotCheck(f"the base directory {base} is no folder")
    if python is None:
        return Installation(folder, base, *_default_python(folder, base))
    python = python.expanduser().absolute()
    if not _runs(python):
        raise CannotCheck(f"--python {python} is no program: give ComfyUI's python itself")
    return Installation(folder, base, python, "from --python")


def _comfyui(path: Path) -> Path:
    if not path.is_dir():
        raise CannotCheck(f"{path} is no folder: give the one that holds ComfyUI's main.py")
    for folder in (path, path / "ComfyUI"):
        if all((folder / part).is_file() for part in _PARTS):
            return folder
    missing = ", ".join(part for part in _PARTS if not (path / part).is_file())
    raise CannotCheck(
        f"{path} is not ComfyUI, it has no {missing}: give the folder that holds ComfyUI's main.py"
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
