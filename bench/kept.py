"""A bench's results on disk: a stopped bench resumes, and the docs' figures have a source."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path("bench/results")  # which is committed


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The results in a file, less half a line that an interrupted bench may have left."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [*map(json.loads, whole.splitlines())]


def add_line(path: Path, result: Mapping[str, Any]) -> None:
    """Saves a result, which JSON can hold, at the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


def write_whole(name: str, result: Mapping[str, Any]) -> None:
    """Saves the result of a bench that does not resume, which JSON can hold; replaces the last."""
    text = json.dumps(result, indent=1) + "\n"
    (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")


class Kept:
    """Results under keys, one line each, on disk as soon as they are added.

    Args:
        name: The file's name, without its ending.
    """

    def __init__(self, name: str) -> None:
        self._path = FOLDER / f"{name}.jsonl"
        self._known: dict[str, Mapping[str, Any]] = {
            line["key"]: line for line in read_lines(self._path)
        }

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The result under a key, or None."""
        return self._known.get(key)

    def of(self, key: str, measure: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """The result under a key; measured and saved if there is none yet."""
        found = self.get(key)
        return self.add(key, **measure()) if found is None else found

    def add(self, key: str, **result: Any) -> Mapping[str, Any]:
        """Saves a result, which JSON can hold."""
        self._known[key] = {"key": key, **result}
        add_line(self._path, self._known[key])
        return self._known[key]
