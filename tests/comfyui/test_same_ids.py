"""Another pack with nodes of the same ids, loaded before ours or after it by a real ComfyUI."""

import json
import os
import re
from collections.abc import Iterator

import pytest
from comfyserver import PACK, Server, folders, running, unpacked

from magcache import __version__

pytestmark = pytest.mark.slow

FOREIGN = """
class Other: pass
NODE_CLASS_MAPPINGS = {"MagCache": Other, "MagCacheCalibration": Other, "Something": Other}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A pack of somebody else, then ours, then an older MagCache: ComfyUI keeps this order."""
    base = tmp_path_factory.mktemp("comfyui") / "base"
    first = base / "custom_nodes" / "Foreign"
    first.mkdir(parents=True)
    (first / "__init__.py").write_text(FOREIGN, encoding="utf-8")
    folders(base.with_name("second"))
    version = unpacked(base.with_name("third") / "custom_nodes" / "Old.MagCache") / "pyproject.toml"
    text = version.read_text(encoding="utf-8")
    version.write_text(
        re.sub(r'^version = ".*"', 'version = "0.0.9"', text, flags=re.MULTILINE), encoding="utf-8"
    )
    paths = base / "paths.yaml"
    places = {name: str(base.with_name(name) / "custom_nodes") for name in ("second", "third")}
    written = {name: {"custom_nodes": place} for name, place in places.items()}
    paths.write_text(json.dumps(written), encoding="utf-8")
    with running(
        base, os.environ["COMFYUI_PATH"], "--extra-model-paths-config", str(paths)
    ) as server:
        yield server


def warnings(server: Server, by: str) -> list[str]:
    """What the pack in a folder warns of, by what it calls itself."""
    lines = [line for line in server.log.splitlines() if "register the same node ids" in line]
    return [line.partition("MagCache: ")[2] for line in lines if f"and custom_nodes/{by} " in line]


def test_a_pack_that_was_loaded_before_is_told_of(server: Server) -> None:
    before, _ = warnings(server, PACK)
    assert before == (
        f"custom_nodes/Foreign and custom_nodes/{PACK} (MagCache {__version__}) register the same "
        "node ids (MagCache, MagCacheCalibration): ComfyUI uses the nodes of "
        "custom_nodes/Old.MagCache, which it loaded last. Rename the folder of "
        "one of them to end in .disabled, then restart ComfyUI"
    )


def test_an_older_magcache_that_was_loaded_after_is_told_of(server: Server) -> None:
    _, after = warnings(server, PACK)
    assert after.startswith(
        f"custom_nodes/Old.MagCache (MagCache 0.0.9) and custom_nodes/{PACK} (MagCache "
        f"{__version__}) register the same node ids ("
    )
    assert "uses the nodes of custom_nodes/Old.MagCache, which it loaded last" in after
    assert "the folder of the older one, custom_nodes/Old.MagCache, to end in .disabled" in after
