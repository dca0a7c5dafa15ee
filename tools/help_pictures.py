"""Makes the pictures of the nodes' help pages, web/docs/*.png, and the README's, docs/node.png.

    python -m tools.help_pictures http://127.0.0.1:8188 path/to/that/server/models

The page of a running ComfyUI draws the nodes; the emoji examples are run for what Report and
Compare show. Needs what tools.workflows.previews needs, and a server of one's own as that does.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image

from .workflows import FOLDER
from .workflows.browser import Editor, editor
from .workflows.files import stand_in
from .workflows.previews import WITHIN

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "web" / "docs"
WIDTH, COLOURS = 720, 128
AT_WORK = {  # the README's picture, of the emoji example: where its nodes are put, their titles
    1: (0, 0, None), 10: (0, 160, None), 11: (440, 0, None), 12: (440, 330, None),
    13: (605, 330, None), 14: (800, 0, "with MagCache"), 9: (1130, 0, "without MagCache"),
}  # fmt: skip
SIZES = {1: (380, 100), 10: (380, 190), 14: (300, 360), 9: (300, 360)}  # of some of them
COLLAPSED = (12, 13)
COPIED = {
    "MagCache": "docs/schedule.png",
    "MagCacheEmojiModel": "models/emoji/grid.png",
    "MagCacheBenchmark": "docs/measure.png",
}
DRAWN = {  # nodes of an example, from left to right
    "MagCacheCalibration": (
        "emoji_calibration",
        ("MagCacheEmojiModel", "MagCacheCalibration", "KSampler"),
    ),
}
ALONE = ("CompileModel", "MagCacheWanVideoWrapper", "MagCacheFramePackWrapper")
SHOWN = {"MagCacheReport": "emoji_video", "MagCacheCompare": "emoji"}  # the example to run
ROWS, OF, NAMES = (0, 1, 3, 4, 6), 7, 53  # of docs/demo.png, below 53 pixels of names
Json = dict[str, Any]


def save(picture: Image.Image, name: str, folder: Path = PAGES, width: int = WIDTH) -> None:
    """Writes a picture of a page, small."""
    small = picture.convert("RGB")
    small.thumbnail((width, 2 * width), Image.Resampling.LANCZOS)
    path = folder / f"{name}.png"
    small.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size // 1024} kB")


def read(name: str) -> Json:
    """Reads an example workflow."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def row(name: str, types: tuple[str, ...]) -> Json:
    """The first node of each type in an example, side by side and without groups."""
    workflow, x = read(name), 0
    found = {node["type"]: node for node in reversed(workflow["nodes"])}
    workflow["nodes"] = [found[kind] for kind in types]
    for node in workflow["nodes"]:
        node["pos"] = [x, 0]
        x += node["size"][0] + 60
    kept = {node["id"] for node in workflow["nodes"]}
    workflow["links"] = [it for it in workflow["links"] if {it[1], it[3]} <= kept]
    return {**workflow, "groups": []}


def shown(page: Editor, name: str, kind: str) -> Image.Image:
    """What a node shows after the second run of an example; the first run measures."""
    page.open(read(name))
    for _ in range(2):
        page.run(WITHIN)
    return page.shown(kind)[0]


def drawn(page: Editor, workflow: Json) -> Image.Image:
    """A graph as the page draws it."""
    page.open(workflow)
    return photographed(page)


def photographed(page: Editor) -> Image.Image:
    """All that the page shows now."""
    path = PAGES / "drawn.tmp.png"
    page.picture(path)
    with Image.open(path) as picture:
        picture.load()
    path.unlink()
    return picture


def alone(page: Editor, kind: str) -> Image.Image:
    """One node, with its default values."""
    empty: Json = {"nodes": [], "links": [], "last_node_id": 0, "last_link_id": 0, "version": 0.4}
    page.open(empty)
    page.page.evaluate("(type) => { app.graph.add(LiteGraph.createNode(type)) }", kind)
    return drawn(page, page.page.evaluate("() => app.graph.serialize()"))


def at_work(page: Editor) -> Image.Image:
    """The node after two runs of the emoji example, and the pictures with and without it."""
    page.open(read("emoji"))
    for _ in range(2):
        page.run(WITHIN)
    page.page.evaluate(
        """([places, sizes, collapsed]) => {
            for (const group of [...app.graph._groups]) app.graph.remove(group);
            for (const node of [...app.graph.nodes]) {
                const [x, y, title] = places[node.id] ?? [];
                if (x === undefined) { app.graph.remove(node); continue; }
                node.pos = [x, y];
                if (title) node.title = title;
                if (collapsed.includes(+node.id)) node.flags.collapsed = true;
                if (sizes[node.id]) node.setSize(sizes[node.id]);
            }
        }""",
        [AT_WORK, SIZES, COLLAPSED],
    )
    page.page.wait_for_timeout(700)  # until it has drawn them there
    picture = photographed(page)
    return picture.crop((30, 60, picture.width - 30, picture.height - 30))


def rows() -> Image.Image:
    """Some rows of the demo's picture."""
    with Image.open(ROOT / "docs" / "demo.png") as picture:
        height = (picture.height - NAMES) / OF
        chosen = Image.new("RGB", (picture.width, round(NAMES + height * len(ROWS))), "white")
        chosen.paste(picture.crop((0, 0, picture.width, NAMES)))
        for place, row in enumerate(ROWS):
            top = NAMES + height * row
            strip = picture.crop((0, round(top), picture.width, round(top + height)))
            chosen.paste(strip, (0, round(NAMES + height * place)))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.help_pictures")
    parser.add_argument("server", help="such as http://127.0.0.1:8188")
    parser.add_argument("models", type=Path, help="its models folder")
    arguments = parser.parse_args()
    for name, path in COPIED.items():
        with Image.open(ROOT / path) as picture:
            save(picture, name)
    save(rows(), "MagCacheTargetSpeed")
    stand_in(map(read, {example for example, _ in DRAWN.values()}), arguments.models)
    with editor(arguments.server) as page:
        save(at_work(page), "node", ROOT / "docs", 2000)
        for name, (example, types) in DRAWN.items():
            save(drawn(page, row(example, types)), name)
        for name in ALONE:
            save(alone(page, name), name)
        for name, example in SHOWN.items():
            save(shown(page, example, name), name)


if __name__ == "__main__":
    main()
