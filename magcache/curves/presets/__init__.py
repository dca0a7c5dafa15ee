"""Published magnitude curves with their recommended settings, one JSON file each.

To add a preset, add a file. NOTICE and each file's `source` say where the figures come from.
"""

import difflib
import json
from pathlib import Path

from ..calibration import Calibration
from ..measurement import Measurement

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every preset's name, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def load(name: str) -> Calibration:
    """Reads a preset.

    Raises:
        ValueError: There is no preset of that name; the message lists the closest ones.
    """
    path = _FOLDER / f"{name}.json"
    if name not in names():
        near = difflib.get_close_matches(name, names(), cutoff=0.4) or names()
        raise ValueError(f"no preset {name!r}; did you mean {', '.join(near)}?")
    return read(path)


def read(path: Path) -> Calibration:
    """Reads a preset file: one list of ratios per branch, and the published settings."""
    data = json.loads(path.read_text(encoding="utf-8"))
    fixed, sigmas = data.get("always_compute"), data["sigmas"] or []
    return Calibration(
        model="",
        branches={branch: Measurement(sigmas, ratios) for branch, ratios in data["ratios"].items()},
        settings={"steps": data["steps"], **data["reference"]},
        threshold=data["threshold"],
        retention=data["retention"],
        max_skip=data["max_skip"],
        name=data["name"],
        switch_at=data["switch"]["sigma"] if "switch" in data else None,
        family=data["family"],
        refresh=fixed["index"] / fixed["of_steps"] if fixed else None,
        source=data["source"],
        note=data.get("note", ""),
    )
