"""What the page says in each language, against the nodes: names, tooltips and help pages."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import folder_paths
import nodes
import pytest
from PIL import Image

from magcache.hosts.comfyui import calibrations
from magcache.hosts.comfyui.nodes import NODE_CLASS_MAPPINGS as NODES
from tools import locales

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "web" / "docs"
HELP = {"en": "{}.md", "zh": "{}/zh.md"}  # where ComfyUI's page looks, "en" for other languages
SPECIAL = re.compile(r"[{}@|]")  # they have a meaning in the page's messages
Json = dict[str, Any]

each_node = pytest.mark.parametrize("name", NODES)
each_language = pytest.mark.parametrize("language", HELP)


def read(language: str, name: str = "nodeDefs") -> Json:
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))


def texts(tree: Json, path: str = "") -> dict[str, str]:
    """Every text by its place."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        place = f"{path}.{key}"
        found |= texts(value, place) if isinstance(value, dict) else {place: value}
    return found


def inputs(name: str) -> dict[str, tuple[Any, Json]]:
    parts = NODES[name].INPUT_TYPES()
    return {**parts["required"], **parts.get("optional", {})}


def options(name: str) -> set[str]:
    """What the node's lists offer, without the user's own files."""
    lists = [kind for kind, _ in inputs(name).values() if isinstance(kind, list)]
    return {choice for choices in lists for choice in choices} - set(calibrations.names())


def help_page(name: str, language: str) -> str:
    return (PAGES / HELP[language].format(name)).read_text(encoding="utf-8")


@each_node
def test_every_input_and_output_has_a_tooltip(name: str) -> None:
    node = NODES[name]
    tooltips = [options.get("tooltip") for _, options in inputs(name).values()]
    assert all(tooltips) and all(node.OUTPUT_TOOLTIPS) and node.DESCRIPTION
    assert len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_TYPES)


def test_english_is_what_the_nodes_say_themselves() -> None:
    assert read("en") == locales.definitions(), "write it again: python -m tools.locales"
    assert read("en", "main") == locales.main_file()


def test_chinese_has_a_text_for_every_english_one() -> None:
    for file in ("nodeDefs", "main"):
        assert set(texts(read("zh", file))) == set(texts(read("en", file)))


def test_chinese_is_translated_and_keeps_figures_and_options() -> None:
    chinese = texts(read("zh"))
    for place, english in texts(read("en")).items():
        if english != "MagCache":
            assert re.search(r"[\u4e00-\u9fff]", chinese[place]), place
        for kept in re.findall(r"\d+|automatic|published(?=:)|auto(?= )", english):
            assert kept in chinese[place], (place, kept)


@each_language
def test_no_text_holds_what_the_page_would_take_for_its_own_syntax(language: str) -> None:
    assert not [text for text in texts(read(language)).values() if SPECIAL.search(text)]
    assert not [key for node in read(language).values() for key in node["inputs"] if "." in key]


@each_language
@each_node
def test_each_node_has_a_help_page_that_names_every_input_and_option(
    name: str, language: str
) -> None:
    text = help_page(name, language)
    assert text.startswith("# ") and len(re.findall(r"^## ", text, re.MULTILINE)) >= 3
    named = set(re.findall(r"`([^`]+)`", text))
    assert not (set(inputs(name)) | options(name)) - named


@each_node
def test_a_help_page_says_the_same_in_both_languages(name: str) -> None:
    english, chinese = help_page(name, "en"), help_page(name, "zh")
    for pattern in (r"^## ", r"^\|", r"^- ", r"^!\["):
        count = [len(re.findall(pattern, text, re.MULTILINE)) for text in (english, chinese)]
        assert count[0] == count[1], pattern
    code = [set(re.findall(r"`([^`]+)`", text)) for text in (english, chinese)]
    assert code[0] == code[1]


@each_language
@each_node
def test_its_picture_is_there_and_small(name: str, language: str) -> None:
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", help_page(name, language))
    assert pictures
    for _, file in pictures:
        path = PAGES / file  # the page takes it from here for both languages
        assert path.stat().st_size < 150_000
        with Image.open(path) as picture:
            assert picture.width >= 300


def test_there_is_no_page_or_picture_too_many() -> None:
    pages = {PAGES / form.format(name) for name in NODES for form in HELP.values()}
    pictures = {PAGES / f for n in NODES for f in re.findall(r"\]\(([^)]+)\)", help_page(n, "en"))}
    assert {path for path in PAGES.rglob("*") if path.is_file()} == pages | pictures


def test_comfyui_finds_the_texts_and_the_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(os.environ["COMFYUI_PATH"])
    monkeypatch.delitem(sys.modules, "utils", raising=False)  # of another folder, see nodes.py
    from app.custom_node_manager import CustomNodeManager

    pack = tmp_path / "ComfyUI-MagCache"
    pack.symlink_to(ROOT)
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda _: [str(tmp_path)])
    assert CustomNodeManager().build_translations() == {
        language: {**read(language, "main"), "nodeDefs": read(language)} for language in HELP
    }
    for name in ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "LOADED_MODULE_DIRS"):
        monkeypatch.setattr(nodes, name, dict(getattr(nodes, name)))
    monkeypatch.setattr(nodes, "EXTENSION_WEB_DIRS", {})
    assert asyncio.run(nodes.load_custom_node(str(pack)))
    assert {pack.name: str(pack / "web")} == nodes.EXTENSION_WEB_DIRS
