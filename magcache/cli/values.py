"""Types of options: numbers in a range, texts and paths, checked before any work starts."""

import argparse
import math
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

MOST_STEPS = 1_000  # with this many, the search for a plan takes seconds


def number(low: float, high: float, *, above: bool = False) -> Callable[[str], float]:
    """The type of an option that takes a number from `low` to `high`.

    Args:
        low, high: The range, both included.
        above: Exclude `low` itself.
    """
    span = f"above {low:,g} and up to {high:,g}" if above else f"from {low:,g} to {high:,g}"

    def read(text: str) -> float:
        with suppress(ValueError):
            value = float(text)
            if math.isfinite(value) and low <= value <= high and not (above and value == low):
                return value
        raise argparse.ArgumentTypeError(f"give a number {span}, not {shortened(text)}")

    return read


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number from `low` to `high`."""

    def read(text: str) -> int:
        with suppress(ValueError):
            if low <= int(text) <= high:
                return int(text)
        raise argparse.ArgumentTypeError(
            f"give a whole number from {low:,} to {high:,}, not {shortened(text)}"
        )

    return read


def given(text: str) -> str:
    """The type of an argument that names something."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{shortened(text)} names nothing")
    return text


def a_path(text: str) -> Path:
    """The type of an argument that names a file or folder."""
    return Path(given(text))


def shortened(text: str) -> str:
    """A text as quoted in messages."""
    return repr(text if len(text) <= 80 else f"{text[:60]}…")


def check_file(file: Path) -> None:
    """Checks that a file is an ordinary one: reading a pipe or device may never end.

    Raises:
        ValueError: It is missing, or not an ordinary file.
    """
    if not file.exists():
        raise ValueError(f"there is no file {file}")
    if not file.is_file():
        raise ValueError(f"{file} is not an ordinary file")


def check_new_file(file: Path) -> None:
    """Checks that a file can be written, in a folder that need not exist yet.

    Raises:
        ValueError: It cannot be written.
    """
    if file.is_dir():
        raise ValueError(f"{file} is a folder: give the name of a file")
    if file.exists() and not file.is_file():
        raise ValueError(f"{file} is not an ordinary file: choose another")
    check_folder(file.parent)


def check_folder(folder: Path) -> None:
    """Checks that files can be written to a folder, which need not exist yet.

    Raises:
        ValueError: They cannot be written.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        in_place = isinstance(error, FileExistsError | NotADirectoryError)
        why = "a file is in its place" if in_place else error.strerror
        raise ValueError(f"cannot write to the folder {folder}: {why}") from error
    finally:
        for each in made:
            with suppress(OSError):
                each.rmdir()
