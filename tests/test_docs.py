"""What the documents say in figures is what the data says, and in two languages alike."""

import ast
import json
import pydoc
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")
}
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
_PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
ADDRESS = re.findall(r'^Repository = "https://(.*)"', _PROJECT, re.MULTILINE)[0]
_RAW = ADDRESS.replace("github", "raw.githubusercontent")
FILES = re.compile(rf"^https://(?:{ADDRESS}/(?:blob|tree)|{_RAW})/main/")
"""Where this repository's own files are, as a page outside of it links to them."""
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


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_file_of_the_example_workflows_can_be_downloaded_from_the_page_of_models() -> None:
    files = {
        file["url"]
        for path in (ROOT / "example_workflows").glob("*.json")
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]
        for file in node["properties"].get("models", [])
    }
    assert files and not files - set(links(read("docs/models.md")))


def mean_and_worst(cell: str) -> str:
    """Of a cell with mean / 10th percentile / minimum, as the README rounds them."""
    mean, _, worst = (round(float(figure)) for figure in cell.split(" / "))
    return f"{mean} dB ({worst})"


def test_the_readme_says_how_close_first_runs_come() -> None:
    """At 14 of 28 steps, and at 6 of 8 of the distilled model, as the benches have found."""
    studied = {row[0]: row for row in rows(read("docs/prediction.md"))}
    expected = []
    for model in ("emoji, shift 1", "emoji-video, shift 3", "emoji-unet, CFG 5"):
        both = studied[f"{model}: **first run"], studied[f"{model}: plain, as many steps"]
        expected.append([mean_and_worst(row[-1]) for row in both])
    case = read("docs/few-steps.md").partition("emoji-turbo, CFG 1, shift 3, res_multistep")[2]
    few = next(row for row in rows(case) if row[:2] == ["8", "6"])
    expected.append([mean_and_worst(few[3]), mean_and_worst(few[4])])
    for readme in READMES.values():
        shown = [row[-2:] for row in rows(readme) if " dB (" in row[-1]]
        assert shown == expected


def test_the_readme_says_how_fast_templates_get() -> None:
    """As the most used template of each model that the README names does; to a tenth."""
    newest = read("docs/templates.md").split("\n## ")[1].replace("Wan2.2", "Wan 2.2")
    most_used = {row[0]: row[-1] for row in rows(newest)}
    checked = 0
    for row in rows(READMES["README.md"]):
        for name in {*re.split(r", |: ", row[0])} & {*most_used}:
            steps, _, computed = most_used[name].partition(" steps")
            speedup = sum(map(int, steps.split(" + "))) / int(
                re.findall(r"(\d+) comp", computed)[0]
            )
            assert abs(float(row[2].rstrip("x")) - speedup) < 0.1, name
            checked += 1
    assert checked > 6
    share = round(float(re.findall(r"\*\*([\d.]+)% of their use gains", newest)[0]))
    assert all(f"{share} %" in readme for readme in READMES.values())


@pytest.mark.parametrize("model", ["emoji", "emoji-video"])
def test_the_page_of_the_models_says_how_many_prompts_they_have_learned(model: str) -> None:
    evaluation = json.loads(read(f"models/{model}/evaluation.json"))
    right = round(evaluation["fraction"] * evaluation["prompts"])
    paragraphs = read("docs/emoji.md").split("\n\n")
    (said,) = [text for text in paragraphs if f"models/{model}/evaluation.json" in text]
    assert re.findall(r"\b96\D+(\d+)\D", said)[0] == str(right)


def said(path: Path) -> str:
    """All that a module can say, one string after another, without what it fills in."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    values = (node.value for node in nodes if isinstance(node, ast.Constant))
    return "\n".join(value for value in values if isinstance(value, str))


def test_the_messages_that_troubleshooting_explains_are_said() -> None:
    page = read("docs/troubleshooting.md").partition("\n## Messages\n")[2]
    shown = re.findall(r"`(.+?)`", "\n".join(row[0] for row in rows(page.partition("\n## ")[0])))
    code = "\n".join([*map(said, (ROOT / "magcache").rglob("*.py")), read("web/old_workflows.js")])
    parts = [part for text in shown for part in re.split(r"\b(?:9|EasyCache|LazyCache)\b", text)]
    assert len(shown) > 15
    assert not [part for part in parts if part.strip() not in code]


def test_both_readmes_have_the_same_headings_tables_code_and_links() -> None:
    english, chinese = READMES.values()
    assert headings(english) == headings(chinese)
    figures = [
        [re.findall(r"\d+(?:\.\d+)?|–", cell) for row in rows(text) for cell in row]
        for text in (english, chinese)
    ]
    assert figures[0] == figures[1]
    code = [re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE) for text in READMES.values()]
    code = [[re.sub(r"(?m)(?:^| +)# .*", "", block) for block in blocks] for blocks in code]
    assert code[0] == code[1]
    places = [
        [link for link in links(text) if not re.search(r"README(\.zh-CN)?\.md$", link)]
        for text in (english, chinese)
    ]
    assert places[0] == places[1]


@each_document
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for link in links(path.read_text(encoding="utf-8")):
        here, own = path.parent, FILES.sub("", link)
        if own != link:
            here, link = ROOT, own
        if not link.startswith("https://"):
            file, _, anchor = link.partition("#")
            target = (here / file).resolve() if file else path
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
    tree = text.partition("\nmagcache/\n")[2].partition("\n```")[0]
    shown = re.findall(r"^  ([\w.]+)/? +", tree, re.MULTILINE)
    rooms = [path for path in (ROOT / "magcache").iterdir() if path.name[0] not in "_."]
    assert {*shown} == {room.name for room in rooms}
    order = [name.removesuffix(".py") for name in shown]
    for room in rooms:
        for file in sorted(room.rglob("*.py")) or [room]:
            up = "." * len(file.relative_to(ROOT / "magcache").parts)
            code = file.read_text(encoding="utf-8")
            for other in re.findall(rf"^ *from {re.escape(up)}(\w+)", code, re.MULTILINE):
                assert order.index(other) < order.index(room.stem), f"{file}: {other}"
