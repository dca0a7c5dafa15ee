"""The nodes for other packs, in a ComfyUI that has none of these packs."""

import sys

import pytest
import torch

from magcache.hosts.comfyui.nodes import NODE_CLASS_MAPPINGS as NODES
from magcache.hosts.comfyui.nodes import NODE_DISPLAY_NAME_MAPPINGS as TITLES


@pytest.mark.parametrize("pack", ["WanVideoWrapper", "FramePackWrapper"])
def test_each_is_offered_without_its_pack(pack: str) -> None:
    name = f"MagCache{pack}"
    assert NODES[name].__name__ == name and TITLES[name] == f"MagCache for {pack}"
    assert NODES[name].INPUT_TYPES()["required"]


def test_nothing_is_imported_that_only_the_packs_need() -> None:
    assert not {"diffusers", "accelerate"} & set(sys.modules)


def test_without_a_model_the_settings_need_no_pack() -> None:
    settings = NODES["MagCacheWanVideoWrapper"]().apply(
        "wan2.1_t2v_14B", 0.12, 4, 6, -1, "offload_device"
    )[0]
    assert settings == {
        "cache_type": "MagCache",
        "magcache_thresh": 0.12,
        "magcache_K": 4,
        "start_step": 6,
        "end_step": -1,
        "cache_device": torch.device("cpu"),
    }


@pytest.mark.parametrize(
    ("name", "inputs", "expected"),
    [
        ("MagCacheFramePackWrapper", ("framepack", 0.1, 0.2, 3), "must be a FramePackMODEL"),
        (
            "MagCacheWanVideoWrapper",
            ("wan2.1_t2v_14B", 0.12, 4, 6, -1, "main_device"),
            "must be a WANVIDEOMODEL",
        ),
    ],
)
def test_a_model_of_comfyui_is_refused(name: str, inputs: tuple, expected: str) -> None:
    model = torch.nn.Linear(2, 2)
    arguments = (model, *inputs) if "FramePack" in name else (*inputs, model)
    with pytest.raises(TypeError, match=expected):
        NODES[name]().apply(*arguments)
