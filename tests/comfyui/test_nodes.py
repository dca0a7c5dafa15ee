"""The nodes as ComfyUI sees them."""

import pytest

from magcache.hosts.comfyui.nodes import NODE_CLASS_MAPPINGS
from magcache.hosts.comfyui.nodes.magcache import MagCache


def test_ids_and_inputs_are_those_of_existing_workflows() -> None:
    assert list(NODE_CLASS_MAPPINGS) == [
        "MagCache", "CompileModel", "MagCacheCalibration", "MagCacheTargetSpeed",
        "MagCacheReport", "MagCacheCompare", "MagCacheBenchmark", "MagCacheEmojiModel",
        "MagCacheWanVideoWrapper", "MagCacheFramePackWrapper",
    ]  # fmt: skip
    assert list(MagCache.INPUT_TYPES()["required"]) == [
        "model", "model_type", "magcache_thresh", "retention_ratio", "magcache_K", "start_step",
        "end_step",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NODE_CLASS_MAPPINGS)
def test_every_input_has_a_tooltip(name: str) -> None:
    kinds = NODE_CLASS_MAPPINGS[name].INPUT_TYPES()
    for _kind, options in [*kinds["required"].values(), *kinds.get("optional", {}).values()]:
        assert options["tooltip"]


@pytest.mark.parametrize("name", ["MagCacheReport", "MagCacheCompare"])
def test_every_output_has_a_name_and_a_tooltip(name: str) -> None:
    node = NODE_CLASS_MAPPINGS[name]
    assert len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_TYPES)
