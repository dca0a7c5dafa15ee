"""The nodes as ComfyUI sees them."""

from magcache.hosts.comfyui.nodes import NODE_CLASS_MAPPINGS, MagCache


def test_ids_and_inputs_are_those_of_existing_workflows() -> None:
    assert list(NODE_CLASS_MAPPINGS) == [
        "MagCache", "CompileModel", "MagCacheCalibration", "MagCacheTargetSpeed",
    ]  # fmt: skip
    assert list(MagCache.INPUT_TYPES()["required"]) == [
        "model", "model_type", "magcache_thresh", "retention_ratio", "magcache_K", "start_step",
        "end_step",
    ]  # fmt: skip
