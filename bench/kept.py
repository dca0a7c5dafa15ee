"""A bench's results on disk: a stopped bench resumes, and the docs' figures have a source."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path("bench/results")  # which is committed


class Kept:
    """Results under keys, one line each, on disk as soon as they are added.

    Args:
        name: The file's name, without its ending.
        folder: Where it is.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self._path = (folder or FOLDER) / f"{name}.jsonl"
        self._known: dict[str, Mapping[str, Any]] = {}
        if self._path.exists():
            text = self._path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # an interrupted bench may have left half a line
            if whole != text:
                self._path.write_text(whole, encoding="utf-8")
            lines = map(json.loads, whole.splitlines())
            self._known = {line["key"]: line for line in lines}

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The result under a key, or None."""
        return self._known.get(key)

    def add(self, key: str, **result: Any) -> Mapping[str, Any]:
        """Saves a result, which JSON can hold."""
        self._known[key] = {"key": key, **result}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._known[key]) + "\n")
        return self._known[key]
