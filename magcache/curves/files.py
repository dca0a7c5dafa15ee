"""Small JSON files: read defensively, written atomically and with a checksum."""

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

LARGEST = 1 << 24  # bytes; enough for two branches of 900 evaluations each
_SEAL = "checksum"

log = logging.getLogger("magcache")
State = tuple[int, int, int]
"""Modification time, size and inode: it differs if the file has changed."""

_warned: dict[Path, State] = {}


def read_json(path: Path) -> Any:
    """Reads a JSON file. Does not block if the path turns out to be a pipe.

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
    from pydantic_core import from_json  # unlike json, survives deep nesting

    try:
        return from_json(data.removeprefix(b"\xef\xbb\xbf"))  # BOM, added by editors on Windows
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error})") from None


def write_json(path: Path, held: dict[str, Any]) -> None:
    """Writes a file for `read_json`, with a checksum as the last field.

    Raises:
        OSError: It cannot be written, or would be too large to read. An older file stays intact.
    """
    text = json.dumps({**held, _SEAL: _seal(held)}, indent=1)
    if len(text) > LARGEST:
        raise OSError(errno.EFBIG, f"{path} would be larger than {LARGEST >> 20} MiB")
    _write_whole(path, text.encode())


def check_seal(held: Mapping[str, Any]) -> None:
    """Checks that a file still holds what was written. Files without a checksum pass.

    Raises:
        ValueError: The checksum does not match.
    """
    if _SEAL in held and held[_SEAL] != _seal(held):
        raise ValueError(
            f"{_SEAL} does not match, so the file is damaged or was edited: get it again, or, if "
            f'you edited it on purpose, delete "{_SEAL}" from it'
        )


def _seal(held: Mapping[str, Any]) -> str:
    """A hash of the content, independent of whitespace and order."""
    rest = {name: value for name, value in held.items() if name != _SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def _write_whole(path: Path, data: bytes) -> None:
    """Writes a file atomically: a crash or a full disk leaves an older file intact.

    Keeps the permissions of an older file, and follows links instead of replacing them.
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
    if hasattr(os, "O_DIRECTORY"):  # not on Windows, and not supported by every file system
        with suppress(OSError):
            _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def state_of(found: os.stat_result) -> State:
    """The state of a file."""
    return found.st_mtime_ns, found.st_size, found.st_ino


def warn_once(path: Path, message: str) -> None:
    """Warns about a file that cannot be used, once until the file changes."""
    try:
        state = state_of(path.stat())
    except (OSError, ValueError):
        state = 0, 0, 0
    if _warned.get(path) != state:
        _warned[path] = state
        log.warning("MagCache: %s", message)
