"""Writes the examples."""

import argparse
import json
from collections.abc import Callable

from . import FOLDER, emoji, images, videos
from .definitions import Definitions
from .graph import Workflow

EXAMPLES: dict[str, Callable[[Workflow], None]] = {
    "emoji": emoji.emoji,
    "emoji_video": emoji.emoji_video,
    "emoji_benchmark": emoji.emoji_benchmark,
    "flux": images.flux,
    "flux_kontext": images.flux_kontext,
    "flux_compile": images.flux_compile,
    "target_speed": images.target_speed,
    "chroma": images.chroma,
    "chroma_calibration": images.chroma_calibration,
    "qwen_image": images.qwen_image,
    "hunyuanvideo": videos.hunyuanvideo,
    "wan2.1_t2v": videos.wan_t2v,
    "wan2.1_i2v": videos.wan_i2v,
    "wan2.1_vace": videos.wan_vace,
    "wan2.2_t2v": videos.wan22_t2v,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.workflows", description=__doc__)
    parser.add_argument("servers", nargs="+", help="such as http://127.0.0.1:8188")
    definitions = Definitions.of_servers(parser.parse_args().servers)
    FOLDER.mkdir(exist_ok=True)
    for name, build in EXAMPLES.items():
        workflow = Workflow(name, definitions)
        build(workflow)
        text = json.dumps(workflow.as_json(), indent=1, ensure_ascii=False)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main()
