"""What people run, in the graphs of ComfyUI's own templates: faster in the first run."""

import importlib.util
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch

if not importlib.util.find_spec("comfyui_workflow_templates_json"):
    reason = "this ComfyUI's templates are not in a package of their own"
    pytest.skip(reason, allow_module_level=True)

from template_graph import Run, known, template
from watch import Cached, difference, watching

from magcache.doctor.tiny import EVERY
from magcache.doctor.tiny.sampling import flat
from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed

TEMPLATES = {
    "video_minimax_h3_i2v": "minimax_h3",
    "video_minimax_h3_t2v": "minimax_h3",
    "video_ltx2_3_i2v": "ltx2",
    "video_ltx2_5_i2v": "ltx2",
    "image_z_image_turbo": "z_image",
    "image_krea2_turbo_t2i": "krea2",
    "video_wan2_2_14B_i2v": "wan22_i2v",
    "image_qwen_image_edit_2511": "qwen_image",
    "image_firered_image_edit1_1": "qwen_image",
    "image_flux2": "flux2",
    "flux_kontext_dev_basic": "flux_kontext",
    "image_anima_preview": "anima",
}
"""The tiny model in place of the template's own."""
TWO_STAGES = ("video_ltx2_3_i2v", "video_ltx2_5_i2v")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))


@pytest.mark.parametrize("name", TEMPLATES)
def test_its_first_run_computes_as_few_steps_as_docs_templates_says(name: str) -> None:
    watched: list[Cached] = []

    def faster(model: Any) -> Any:
        watched.append(watching(MagCacheTargetSpeed().apply(model, 2.0, "automatic")[0]))
        return watched[-1].model

    tiny, told, workflow = EVERY[TEMPLATES[name]], known()[name], template(name)
    plain, fast = Run(workflow, tiny, lambda model: model)(), Run(workflow, tiny, faster)()
    runs = [run for each in watched for run in each.runs]
    assert len(plain) == len(fast) == len(told.samplings)
    assert [len(run.evaluations) for run in runs] == [s.steps for s in told.samplings]
    spent = sum(len(run.evaluations) - run.skipped for run in runs)
    # Of a second stage the tool does not know how much of the model's trajectory it is.
    assert spent == told.computed - (name in TWO_STAGES)
    for ours, whole in zip(fast, plain, strict=True):
        assert torch.isfinite(flat(ours)).all()
        assert 0 < difference(flat(ours), flat(whole)) < 1


@pytest.mark.parametrize("name", ["image_qwen_image_edit_2509"])
def test_four_steps_are_all_computed_and_nothing_changes(name: str) -> None:
    tiny = EVERY["qwen_image"]
    workflow = template(name)
    plain = Run(workflow, tiny, lambda model: model)()
    fast = Run(workflow, tiny, lambda m: MagCacheTargetSpeed().apply(m, 2.0, "automatic")[0])()
    assert torch.equal(flat(plain[0]), flat(fast[0]))
