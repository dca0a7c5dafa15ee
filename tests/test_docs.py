"""What the documents say in figures is what the data says."""

import re
from pathlib import Path

from magcache import presets
from magcache.hosts.comfyui.families import MODEL_TYPES

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def table() -> dict[str, list[str]]:
    """The README's recommended settings, a preset."""
    rows = re.findall(r"^\| \**`([\w.]+)`\** \| (.*) \|$", README, re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}


def test_the_readmes_settings_are_the_presets() -> None:
    def written(value: float | None) -> str:
        return "–" if value is None else f"{value:g}"

    expected = {}
    for name in presets.names():
        preset = presets.load(name)
        settings = (preset.steps, preset.threshold, preset.retention, preset.max_skip)
        expected[name] = [written(value) for value in settings]
    assert {name: cells[1:] for name, cells in table().items()} == expected


def test_the_readmes_model_types_are_the_nodes() -> None:
    expected = dict.fromkeys(presets.names(), "")
    for name, entry in MODEL_TYPES.items():
        expected[entry.preset] = f"`{name}`"
        if entry.from_image:
            expected[entry.from_image] = f"`{name}`, from an image"
    assert {name: cells[0] for name, cells in table().items()} == expected
