"""Small JSON files: read without trust, written whole and with a checksum."""

import errno
import hashlib
import json
import logging
import os
import stat
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

LARGEST = 1 << 24  # bytes; two branches of 900 evaluations each
_SEAL = "checksum"

log = logging.getLogger("magcache")
State = tuple[int, int, int]
"""What changes with a file: time, size and number."""

_warned: dict[Path, State] = {}


def read_json(path: Path) -> Any:
    """What a JSON file holds, whatever lies at its path: no pipe is waited for.

    Raises:
        OSError: It cannot be read, is not a regular file, or is larger than `LARGEST`.
        ValueError: It is not JSON, or is nested hundreds of levels deep.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise OSError(errno.EFBIG, f"it is larger than {LARGEST >> 20} MiB")
    from pydantic_core import from_json  # which is safe against deep nesting

    try:
        return from_json(data.removeprefix(b"\xef\xbb\xbf"))  # editors on Windows put it in front
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error})") from None


def write_json(path: Path, held: dict[str, Any]) -> None:
    """Writes what `read_json` reads, with a checksum as its last field.

    Raises:
        OSError: It cannot be written, or would be too large to be read; an older file is as it was.
    """
    text = json.dumps({**held, _SEAL: _seal(held)}, indent=1)
    if len(text) > LARGEST:
        raise OSError(errno.EFBIG, f"{path} would be larger than {LARGEST >> 20} MiB")
    _write_whole(path, text.encode())


def check_seal(held: Mapping[str, Any]) -> None:
    """Makes sure that a file holds what was written; older and some edited ones have no checksum.

    Raises:
        ValueError: The checksum is of something else.
    """
    if _SEAL in held and held[_SEAL] != _seal(held):
        raise ValueError(
            f"{_SEAL} does not match, so the file is damaged or was edited: get it anew, or, if "
            f'it was edited on purpose, delete "{_SEAL}" from it'
        )


def _seal(held: Mapping[str, Any]) -> str:
    """A hash of the content, however it is spaced and ordered."""
    rest = {name: value for name, value in held.items() if name != _SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def _write_whole(path: Path, data: bytes) -> None:
    """Writes a file in one move: a crash or a full disk leaves an older one as it was.

    An older file's permissions are kept, and a link goes on leading to the file.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = os.stat(path).st_mode if os.path.lexists(path) else None
    if mode is not None and not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"{path} is not a regular file")
    scratch = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with open(scratch, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(scratch, stat.S_IMODE(mode))
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # Windows has no such thing, nor has every file system
        with suppress(OSError):
            _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def state_of(found: os.stat_result) -> State:
    """A file's state."""
    return found.st_mtime_ns, found.st_size, found.st_ino


def warn_once(path: Path, message: str) -> None:
    """Warns of a file that cannot be used, once as long as it is unchanged."""
    try:
        state = state_of(path.stat())
    except (OSError, ValueError):
        state = 0, 0, 0
    if _warned.get(path) != state:
        _warned[path] = state
        log.warning("MagCache: %s", message)
