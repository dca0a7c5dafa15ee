"""The examples, sampled with tiny models: their first run computes what their notes say."""

import json
import re
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from template_graph import Run
from watch import Cached, difference, watching
from workflows import FOLDER

from magcache.doctor.tiny import EVERY
from magcache.doctor.tiny.sampling import flat
from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed

TINY = {
    "chroma": "chroma", "flux1_dev": "flux", "flux1_kontext": "flux_kontext", "flux2_dev": "flux2",
    "hunyuan_video": "hunyuan_video", "krea2_turbo": "krea2", "ltx2.3_i2v": "ltx2",
    "minimax_h3_i2v": "minimax_h3", "qwen_image": "qwen_image", "qwen_image_edit": "qwen_image",
    "wan2.1_i2v": "wan_i2v", "wan2.1_t2v": "wan_t2v", "wan2.2_i2v": "wan22_i2v",
    "wan2.2_t2v": "wan_t2v", "z_image_turbo": "z_image",
}  # fmt: skip
OTHERS = {"emoji", "emoji_benchmark", "emoji_calibration", "emoji_video", "flux1_published_rule"}
"""Those without a number in their notes, and those that are run whole in test_workflows.py."""


def test_every_example_is_tried() -> None:
    assert set(TINY) | OTHERS == {path.stem for path in FOLDER.glob("*.json")}


@pytest.mark.parametrize("name", TINY)
def test_its_first_run_computes_what_its_note_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if TINY[name] not in EVERY:
        pytest.skip(f"this ComfyUI has no {TINY[name]}")
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    watched: list[Cached] = []

    def faster(model: Any) -> Any:
        watched.append(watching(MagCacheTargetSpeed().apply(model, 2.0, "automatic")[0]))
        return watched[-1].model

    workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    tiny = EVERY[TINY[name]]
    plain, fast = Run(workflow, tiny, lambda model: model)(), Run(workflow, tiny, faster)()
    runs = [run for each in watched for run in each.runs]
    steps = sum(len(run.evaluations) for run in runs)
    computed = steps - sum(run.skipped for run in runs)
    (note,) = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    told = re.findall(r"computes (\d+) of (\d+) steps", note["widgets_values"][0])
    assert told == [(str(computed), str(steps))]
    for ours, whole in zip(fast, plain, strict=True):
        assert torch.isfinite(flat(ours)).all()
        assert 0 < difference(flat(ours), flat(whole)) < 1
