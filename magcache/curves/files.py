"""Files that are replaced whole."""

import os
import threading
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a file in one move: a crash or a full disk leaves an older one as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
