"""Writes the examples."""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass

from . import FOLDER, emoji, images, videos
from .definitions import Definitions, version
from .graph import Workflow

TESTED = ("0.33.0", "0.8.0", "0.3.64")


@dataclass(frozen=True)
class Example:
    """How an example is built.

    Attributes:
        build: Adds its nodes.
        since: The oldest of the tested versions of ComfyUI that has the model.
        model: The model's name, if not every version has it.
    """

    build: Callable[[Workflow], None]
    since: str = TESTED[-1]
    model: str = ""

    def workflow(self, name: str, definitions: Definitions) -> Workflow:
        """Builds the workflow."""
        needs = ""
        if self.model:
            older = TESTED[TESTED.index(self.since) + 1]
            needs = (
                f"**Needs a ComfyUI that has {self.model}:** {self.since} has it, {older} does not."
                "\n\n"
            )
        workflow = Workflow(name, definitions, needs)
        self.build(workflow)
        return workflow


EXAMPLES = {
    "chroma": Example(images.chroma),
    "emoji": Example(emoji.emoji),
    "emoji_benchmark": Example(emoji.emoji_benchmark),
    "emoji_calibration": Example(emoji.calibration),
    "emoji_video": Example(emoji.emoji_video),
    "flux1_dev": Example(images.flux),
    "flux1_kontext": Example(images.flux_kontext),
    "flux1_published_rule": Example(images.published_rule),
    "flux2_dev": Example(images.flux2, "0.8.0", "FLUX.2"),
    "hunyuan_video": Example(videos.hunyuan),
    "krea2_turbo": Example(images.krea2, "0.33.0", "Krea 2"),
    "ltx2.3_i2v": Example(videos.ltx, "0.33.0", "LTX-2.3"),
    "minimax_h3_i2v": Example(videos.minimax, "0.33.0", "MiniMax H3"),
    "qwen_image": Example(images.qwen_image),
    "qwen_image_edit": Example(images.qwen_image_edit, "0.8.0", "Qwen-Image-Edit 2511"),
    "wan2.1_i2v": Example(videos.wan21_i2v),
    "wan2.1_t2v": Example(videos.wan21_t2v),
    "wan2.2_i2v": Example(videos.wan22_i2v),
    "wan2.2_t2v": Example(videos.wan22_t2v),
    "z_image_turbo": Example(images.z_image, "0.8.0", "Z-Image"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.workflows", description=__doc__)
    parser.add_argument("servers", nargs="+", help="such as http://127.0.0.1:8188")
    since = Definitions.of_servers(parser.parse_args().servers)
    FOLDER.mkdir(exist_ok=True)
    for name, example in EXAMPLES.items():
        made = example.workflow(name, since[version(example.since)])
        text = json.dumps(made.as_json(), indent=1, ensure_ascii=False)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main()
