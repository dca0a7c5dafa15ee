"""Draws the examples' previews: what ComfyUI's page shows of each.

    python -m tools.workflows.previews http://127.0.0.1:8188 path/to/that/server/models

Those that run without a download are run, and show what they have made; the others are drawings
of the graph. Needs playwright and Chromium. Use a server of one's own: empty files are put into
its models folder, so that its page does not draw every loader as an error.
"""

import argparse
import json
from pathlib import Path

from PIL import Image

from . import FOLDER
from .browser import Editor, editor
from .files import stand_in

WIDTH, QUALITY = 1000, 78
RUN = ("emoji", "emoji_video", "emoji_benchmark")
WITHIN = 300_000  # milliseconds


def draw(page: Editor, path: Path) -> None:
    """Writes the preview of a workflow, named as it is."""
    page.open(json.loads(path.read_text(encoding="utf-8")))
    if path.stem in RUN:
        page.run(WITHIN)
    shot = path.with_suffix(".png")
    page.picture(shot)
    with Image.open(shot) as picture:
        small = picture.convert("RGB")
        small.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
        small.save(path.with_suffix(".jpg"), quality=QUALITY, optimize=True)
    shot.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.workflows.previews")
    parser.add_argument("server", help="such as http://127.0.0.1:8188")
    parser.add_argument("models", type=Path, help="its models folder")
    arguments = parser.parse_args()
    paths = sorted(FOLDER.glob("*.json"))
    stand_in((json.loads(path.read_text(encoding="utf-8")) for path in paths), arguments.models)
    with editor(arguments.server) as page:
        for path in paths:
            draw(page, path)
            print(f"{path.stem}: {path.with_suffix('.jpg').stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
