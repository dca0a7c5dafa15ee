"""Writes the docs' tables of models, from the rows of `models.py` and the presets.

    python -m tools.tables                        everything except docs/compatibility.md
    python -m tools.tables --comfyui PATH ...     docs/compatibility.md too, with `magcache doctor`

Each table is between two comments with its name; tests/test_tables.py checks that it is current.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from magcache.curves import presets
from magcache.export import ENGINES
from magcache.hosts.comfyui.models import MODEL_TYPES, MODELS, Model

from .workflows import files

ROOT = Path(__file__).parents[1]
_COMPATIBILITY = ROOT / "docs" / "compatibility.md"
_BETWEEN = "<!-- {} -->{}<!-- /{} -->"
_TRIED = {
    "en": "{work} of the {tried} model types in ComfyUI {version} work "
    "(tested with tiny random models)",
    "zh": "ComfyUI {version} 的 {tried} 种模型中有 {work} 种可用（用随机权重的小模型测试）",
}
_COMMAS = {"en": ", ", "zh": "、"}


def texts() -> dict[str, dict[str, str]]:
    """All texts that the tool writes, by file and by the name in the comments."""
    found = {
        "docs/presets.md": {"presets": _presets()},
        "docs/models.md": {
            "recommended": _recommended(),
            "auto": _auto(),
            "others": _others(),
            "unlisted": _unlisted(),
        },
    }
    wrapper = ENGINES["wanvideowrapper"]
    wan = [name for name, row in MODEL_TYPES.items() if wrapper.fits(presets.load(row.preset))]
    pages = {
        "MagCache": MODEL_TYPES, "MagCacheCalibration": MODEL_TYPES, "MagCacheWanVideoWrapper": wan,
    }  # fmt: skip
    for language, readme, page in (
        ("en", "README.md", "web/docs/{}.md"), ("zh", "README.zh-CN.md", "web/docs/{}/zh.md"),
    ):  # fmt: skip
        found[readme] = {"tried": _tried(language)}
        for node, types in pages.items():
            found[page.format(node)] = {"types": _codes(types, _COMMAS[language])}
    return found


def stale() -> dict[str, str]:
    """The documents that are out of date, by file, with their new text.

    Raises:
        ValueError: One lacks the comments for a text.
    """
    found = {}
    for file, parts in texts().items():
        text = (ROOT / file).read_text(encoding="utf-8")
        if (new := filled(text, parts)) != text:
            found[file] = new
    return found


def filled(text: str, parts: Mapping[str, str]) -> str:
    """A document with its parts replaced.

    Raises:
        ValueError: It lacks the comments for one.
    """
    for name, part in parts.items():
        begin, end = (re.escape(mark) for mark in _BETWEEN.format(name, "\0", name).split("\0"))
        between = re.compile(f"{begin}.*?{end}", re.DOTALL)
        if not between.search(text):
            raise ValueError(f"it has no {_BETWEEN.format(name, '', name)}")
        text = between.sub(lambda _, n=name, p=part: _BETWEEN.format(n, p, n), text)
    return text


def table(head: Iterable[str], rows: Iterable[Iterable[str | None]], figures: int = 0) -> str:
    """A Markdown table; the last `figures` columns are right-aligned."""
    head = [*head]
    lines = "|---" * (len(head) - figures) + "|--:" * figures + "|"
    cells = [head, *(["–" if cell is None else cell for cell in row] for row in rows)]
    written = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in cells]
    return "\n".join(["", written[0], lines, *written[1:], ""])


def _settings(preset: str) -> list[str | None]:
    found = presets.load(preset)
    figures = (found.threshold, found.retention, found.max_skip)
    return [None if figure is None else f"{figure:g}" for figure in figures]


def _recommended() -> str:
    rows = [(*_downloads(row), *_settings(row.preset)) for row in MODEL_TYPES.values()]
    head = ("model", "`model_type`", "text encoders, VAE", "threshold", "retention", "K")
    return table(head, rows, 3)


def _downloads(row: Model) -> tuple[str, str, str]:
    """The linked title, the `model_type`, and the other files."""
    own = files.OF.get(row.name, ())
    models = [file for file in own if file.folder == "diffusion_models"]
    linked = [f"[{file.title or row.title}]({file.address})" for file in own]
    title = ", ".join(linked[: len(models)])
    title = title if len(models) == 1 else f"{row.title} {title}".strip()
    return title, f"`{row.name}`", ", ".join(linked[len(models) :])


def _presets() -> str:
    types = {row.preset: f"`{name}`" for name, row in MODEL_TYPES.items()}
    for name, row in MODEL_TYPES.items():
        types |= {row.from_image: f"`{name}`, from an image"} if row.from_image else {}
    rows = []
    for name in presets.names():
        steps = presets.load(name).settings["steps"]
        rows.append((f"`{name}`", types.get(name, ""), f"{steps}", *_settings(name)))
    head = ("preset", "ComfyUI's `model_type`", "steps", "threshold", "retention", "K")
    return table(head, rows, 4)


def _auto() -> str:
    rows = []
    for name, row in MODEL_TYPES.items():
        rows.append((f"`{name}`", f"`{row.kind}`", f"{row.auto.__doc__}".rstrip(".")))
    return table(("`model_type`", "class", "models that `auto` takes for it"), rows)


def _unlisted() -> str:
    rows = []
    for name, (model, *others) in files.UNLISTED.items():
        linked = [f"[{file.title}]({file.address}) `{file.folder}`" for file in others]
        rows.append((f"[{name}]({model.address}) `{model.folder}`", ", ".join(linked)))
    return table(("model", "other files"), rows)


def _others() -> str:
    rows = []
    for row in MODELS:
        if row.follows or row.unfit:
            what = f"one of {_codes(row.follows, ', ')}" if row.follows else f"none: {row.unfit}"
            rows.append((row.title, f"`{row.kind}`", what))
    return table(("model", "class", "curve that `auto` takes"), rows)


def _codes(names: Iterable[str], comma: str) -> str:
    return comma.join(f"`{name}`" for name in names)


def _tried(language: str) -> str:
    """How many models of the newest ComfyUI in the page the node MagCache makes faster.

    The page tests the published rule. The node leaves out only models that remember their calls;
    tests/comfyui/test_outputs.py tests it on the same models.
    """
    page = _COMPATIBILITY.read_text(encoding="utf-8")
    newest = re.search(r"<!-- ComfyUI (\S+) -->(.*?)<!-- /", page, re.DOTALL)
    if newest is None:
        raise ValueError(f"{_COMPATIBILITY} has no section for a ComfyUI")
    version, table = newest.groups()
    networks = re.findall(r"^\| \w\S* \| `(\w+)` \|", table, re.MULTILINE)
    left = {row.network for row in MODELS if row.remembers}
    works = sum(network not in left for network in networks)
    return _TRIED[language].format(version=version, tried=len(networks), work=works)


def _measure(comfyui: Path) -> None:
    """Writes the findings of `magcache doctor` in a ComfyUI."""
    command = [sys.executable, "-m", "magcache.cli", "doctor", "--cpu", "--markdown", "--comfyui"]
    said = subprocess.run([*command, str(comfyui)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    version = re.match(r"## (ComfyUI \S+)", said.stdout)
    if version is None:
        raise SystemExit(f"magcache doctor found nothing in {comfyui}: {said.stdout}")
    page = _COMPATIBILITY.read_text(encoding="utf-8")
    if _BETWEEN.format(version[1], "\0", version[1]).partition("\0")[0] not in page:
        page += f"\n{_BETWEEN.format(version[1], '', version[1])}\n"
    page = filled(page, {version[1]: f"\n{said.stdout.strip()}\n"})
    _COMPATIBILITY.write_text(page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.tables")
    parser.add_argument("--comfyui", type=Path, nargs="*", default=[], metavar="PATH")
    for comfyui in parser.parse_args().comfyui:
        _measure(comfyui)
    for file, text in stale().items():
        (ROOT / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
