"""Draws the examples' previews in ComfyUI's page.

    python -m tools.workflows.previews http://127.0.0.1:8188 path/to/that/server/models [name ...]

Examples that need no download are run, and show their results; the others show the graph. Needs
playwright and Chromium. Use a separate server: the tool puts empty files into its models folder, so
that the page does not mark every loader as an error.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageSequence

from . import FOLDER
from .browser import Editor, editor
from .files import stand_in

WIDTH, QUALITY = 800, 80
TITLE, MARGIN, COLUMNS = 50, 20, 4
COMPARED = {"emoji": "SaveImage", "emoji_video": "SaveAnimatedWEBP"}  # nodes with the pictures
RUN = ("emoji_benchmark", "emoji_calibration", *COMPARED)
WITHIN = 300_000  # milliseconds


def draw(page: Editor, path: Path) -> None:
    """Writes the preview of a workflow, under the same name."""
    page.open(json.loads(path.read_text(encoding="utf-8")))
    if path.stem in RUN:
        page.run(WITHIN)
    picture = compared(page, COMPARED[path.stem]) if path.stem in COMPARED else graph(page, path)
    picture.save(path.with_suffix(".jpg"), quality=QUALITY, optimize=True)


def graph(page: Editor, path: Path) -> Image.Image:
    """The whole graph."""
    shot = path.with_suffix(".png")
    page.picture(shot)
    with Image.open(shot) as picture:
        small = picture.convert("RGB")
        small.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    shot.unlink()
    return small


def compared(page: Editor, kind: str) -> Image.Image:
    """The pictures made without MagCache, and below them those made with it."""
    frames = [
        frame.convert("RGB") for it in page.shown(kind) for frame in ImageSequence.Iterator(it)
    ]
    half = len(frames) // 2
    parts = {"without MagCache": frames[:half], "with MagCache, twice as fast": frames[half:]}
    rows = -(-half // COLUMNS)
    side = WIDTH // COLUMNS
    sheet = Image.new("RGB", (WIDTH, len(parts) * (TITLE + rows * side + MARGIN)), "white")
    top = 0
    for title, shown in parts.items():
        _titled(sheet, title, top)
        _tiled(sheet, shown, top + TITLE, side)
        top += TITLE + rows * side + MARGIN
    return sheet


def _titled(sheet: Image.Image, title: str, top: int) -> None:
    font = ImageFont.load_default(TITLE - 16)
    ImageDraw.Draw(sheet).text((MARGIN, top + 8), title, "black", font)


def _tiled(sheet: Image.Image, pictures: Sequence[Image.Image], top: int, side: int) -> None:
    for number, picture in enumerate(pictures):
        row, column = divmod(number, COLUMNS)
        tile = picture.resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(tile, (column * side, top + row * side))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.workflows.previews")
    parser.add_argument("server", help="such as http://127.0.0.1:8188")
    parser.add_argument("models", type=Path, help="its models folder")
    parser.add_argument("names", nargs="*", help="examples; default: all")
    arguments = parser.parse_args()
    names = arguments.names or sorted(path.stem for path in FOLDER.glob("*.json"))
    paths = [FOLDER / f"{name}.json" for name in names]
    stand_in((json.loads(path.read_text(encoding="utf-8")) for path in paths), arguments.models)
    with editor(arguments.server) as page:
        for path in paths:
            draw(page, path)
            print(f"{path.stem}: {path.with_suffix('.jpg').stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
