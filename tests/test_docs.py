"""What the documents say in figures is what the data says, and in two languages alike."""

import json
import pydoc
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
READMES = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")
}
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
FOLDERS = r"(?:\.ci|\.github|bench|docs|locales|magcache|models|tests|tools|web)/"

each_language = pytest.mark.parametrize("readme", READMES.values(), ids=READMES)
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows."""
    found = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return [[cell.strip(" *") for cell in row.split("|")] for row in found]


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


@each_document
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for link in links(path.read_text(encoding="utf-8")):
        if not link.startswith("https://"):
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), link
            if anchor:
                assert anchor in anchors(target.read_text(encoding="utf-8")), link


@each_document
def test_files_modules_and_commands_that_a_document_names_are_there(path: Path) -> None:
    text = re.sub(r"https?://\S+", "", path.read_text(encoding="utf-8"))
    for file in re.findall(rf"(?<![\w./~-]){FOLDERS}[\w./*-]*", text):
        assert any(ROOT.glob(file.rstrip("./"))), file
    code = "\n".join(re.findall(r"```.*?```|`[^`]+`", text, re.DOTALL))
    for module in re.findall(r"-m ((?:bench|tools|magcache)[\w.]*)", code):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    for name in re.findall(r"`(magcache(?:\.\w+)+)", code):
        assert pydoc.locate(name), name
    for command in re.findall(r"(?:^`?|\$ )magcache (\w+)", code, re.MULTILINE):
        assert (ROOT / "magcache" / "cli" / f"{command}.py").is_file(), command
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^`?make (\w+)", code, re.MULTILINE):
        assert f"\n{target}:" in makefile, target


def test_contributing_shows_every_room_below_all_that_it_imports_from() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = re.findall(r"^  ([\w.]+)/? +", text.partition("\nmagcache/\n")[2], re.MULTILINE)
    rooms = [path for path in (ROOT / "magcache").iterdir() if path.name[0] not in "_."]
    assert {*shown} == {room.name for room in rooms}
    order = [name.removesuffix(".py") for name in shown]
    for room in rooms:
        for file in sorted(room.rglob("*.py")) or [room]:
            up = "." * len(file.relative_to(ROOT / "magcache").parts)
            code = file.read_text(encoding="utf-8")
            for other in re.findall(rf"^ *from {re.escape(up)}(\w+)", code, re.MULTILINE):
                assert order.index(other) < order.index(room.stem), f"{file}: {other}"
