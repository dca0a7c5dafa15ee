"""What a maintainer fills in before publishing stands in one place, and is written everywhere."""

import re
from pathlib import Path

import pytest

from tools import publish

ROOT = Path(__file__).parents[1]
PYPROJECT = """
[tool.publish]
owner = "someone"  # why
repository = "pack"
publisher = "them"

[project.urls]
Repository = "https://github.com/OWNER/ComfyUI-MagCache"
"""
NOW = publish.pattern(PYPROJECT)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "https://github.com/OWNER/ComfyUI-MagCache#readme",
            "https://github.com/someone/pack#readme",
        ),
        (
            "https://raw.githubusercontent.com/OWNER/ComfyUI-MagCache/main/a.png",
            "https://raw.githubusercontent.com/someone/pack/main/a.png",
        ),
        ("https://github.com/OWNER/ComfyUI-MagCache-2", None),
        ("https://github.com/Zehong-Ma/ComfyUI-MagCache", None),
    ],
)
def test_addresses_of_this_repository_are_written_and_no_others(
    before: str, after: str | None
) -> None:
    assert publish.Wanted(PYPROJECT).written(before, NOW) == (after or before)


def test_the_readmes_stand_by_themselves() -> None:
    """As the page of a package registry, which resolves no link inside the repository."""
    for name in publish.READMES:
        assert not publish.relative((ROOT / name).read_text(encoding="utf-8"))


def test_what_is_missing_is_said_until_it_is_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        "pyproject.toml": f'version = "1.0.0"\n{PYPROJECT}\nPublisherId = "OWNER"\n',
        "README.md": "[all](https://github.com/OWNER/ComfyUI-MagCache/blob/main/docs/README.md)",
        "README.zh-CN.md": "",
        "CHANGELOG.md": "## 1.0.0 – 2026-12-01",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    files = lambda: [(file, file.read_text("utf-8")) for file in tmp_path.iterdir()]  # noqa: E731
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    monkeypatch.setattr(publish, "texts", files)
    said = "\n".join(publish.missing("v1.0.1"))
    assert "README.md has other addresses: run python -m tools.publish" in said
    assert "another PublisherId" in said and "the tag is v1.0.1" in said
    publish.fill()
    assert not [*publish.missing("v1.0.0")]
    assert "https://github.com/someone/pack/blob" in (tmp_path / "README.md").read_text("utf-8")


def test_the_workflow_publishes_only_what_the_check_lets_through() -> None:
    workflow = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    steps = re.findall(r"run: (.*)", workflow)
    assert steps[0] == 'python -m tools.publish --check --tag "$TAG"'
