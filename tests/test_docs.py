"""What the documents say in figures is what the data says, and in two languages alike."""

import json
import re
from pathlib import Path

import pytest

from magcache.curves import presets
from magcache.hosts.comfyui.models import MODEL_TYPES
from tests.calibrations import steps_of

ROOT = Path(__file__).parents[1]
PRESETS = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
READMES = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")
}
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]

each_language = pytest.mark.parametrize("readme", READMES.values(), ids=READMES)


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows."""
    found = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return [[cell.strip(" *") for cell in row.split("|")] for row in found]


def written(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def preset_rows() -> dict[str, list[str]]:
    return {row[0].strip("`"): row[1:] for row in rows(PRESETS) if re.match(r"`\S+`$", row[0])}


def headings(text: str) -> list[str]:
    return re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)


def links(text: str) -> list[str]:
    """Where links and pictures lead to, references included."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    references = dict(re.findall(r"^\[(\w+)\]: (\S+)$", text, re.MULTILINE))
    used = [references[name] for name in re.findall(r"\]\[(\w+)\]", text)]
    return [*re.findall(r"\]\(([^)\s]+)\)", text), *used]


def anchors(text: str) -> set[str]:
    """What a heading can be linked by, as GitHub makes it."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_presets_settings_are_the_presets() -> None:
    expected = {}
    for name in presets.names():
        preset = presets.load(name)
        settings = (steps_of(preset), preset.threshold, preset.retention, preset.max_skip)
        expected[name] = [written(value) for value in settings]
    assert {name: cells[1:] for name, cells in preset_rows().items()} == expected


def test_the_presets_model_types_are_the_nodes() -> None:
    expected = dict.fromkeys(presets.names(), "")
    for name, entry in MODEL_TYPES.items():
        expected[entry.preset] = f"`{name}`"
        if entry.from_image:
            expected[entry.from_image] = f"`{name}`, from an image"
    assert {name: cells[0] for name, cells in preset_rows().items()} == expected


@each_language
def test_the_recommended_settings_are_those_of_the_model_types(readme: str) -> None:
    found = {
        row[1].strip("`"): row[2:5] for row in rows(readme) if row[1].strip("`") in MODEL_TYPES
    }
    expected = {}
    for name, entry in MODEL_TYPES.items():
        preset = presets.load(entry.preset)
        settings = (preset.threshold, preset.retention, preset.max_skip)
        expected[name] = [written(value) for value in settings]
    assert found == expected


@each_language
def test_every_file_of_the_example_workflows_can_be_downloaded_from_the_readme(readme: str) -> None:
    files = {
        file["url"]
        for path in (ROOT / "example_workflows").glob("*.json")
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]
        for file in node["properties"].get("models", [])
    }
    assert files and not files - set(links(readme))


def test_the_comparison_is_that_of_the_benchmarks() -> None:
    """Mean PSNR at the same work in the blocks, at the first condition."""
    table = BENCHMARKS.partition("same work in the blocks")[2].partition("\n\nPSNR")[0]
    means = {row[0]: [cell.partition(" /")[0] for cell in row[1:]] for row in rows(table)}
    section = READMES["README.md"].partition("## Comparison")[2].partition("\n## ")[0]
    shown = {row[0].partition(" (")[0].strip("*"): row[1:] for row in rows(section)[1:]}
    assert len(shown) > 8
    assert shown == {name: means[name] for name in shown}
    better = [name for name in means if name not in shown and not name.startswith("ahead")]
    assert [set(means[name]) for name in better if name != "way"] == [{"–"}]  # nothing to show


@each_language
@pytest.mark.parametrize("model", ["emoji", "emoji-video"])
def test_the_readme_says_how_many_prompts_the_models_have_learned(model: str, readme: str) -> None:
    path = ROOT / "models" / model / "evaluation.json"
    evaluation = json.loads(path.read_text(encoding="utf-8"))
    right = round(evaluation["fraction"] * evaluation["prompts"])
    paragraphs = [p for p in readme.split("\n\n") if f"models/{model}/evaluation.json" in p]
    assert re.findall(r"\b96\D+(\d+)\D", paragraphs[0])[0] == str(right)


def test_the_readmes_say_how_many_kinds_of_model_work() -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    counts = re.findall(r"Of (\d+) models tried (\d+) work", page)
    assert len(counts) == 2
    for tried, work in counts:
        assert re.search(rf"\b{work}\s+of\s+{tried}\b", READMES["README.md"])
        assert re.search(rf"{tried} 种\D*{work} 种", READMES["README.zh-CN.md"])


def test_both_readmes_have_the_same_headings_tables_code_and_links() -> None:
    english, chinese = READMES.values()
    assert headings(english) == headings(chinese)
    figures = [
        [re.findall(r"\d+(?:\.\d+)?|–", cell) for row in rows(text) for cell in row]
        for text in (english, chinese)
    ]
    assert figures[0] == figures[1]
    code = [re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE) for text in READMES.values()]
    code = [[re.sub(r" +# .*", "", block) for block in blocks] for blocks in code]
    assert code[0] == code[1]
    places = [
        [link for link in links(text) if not link.startswith(("#", "README"))]
        for text in (english, chinese)
    ]
    assert places[0] == places[1]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for link in links(path.read_text(encoding="utf-8")):
        if not link.startswith("https://"):
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), link
            if anchor:
                assert anchor in anchors(target.read_text(encoding="utf-8")), link
