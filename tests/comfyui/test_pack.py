"""The node pack as ComfyUI loads it: by its path, from any folder, beside anything broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from comfyserver import PACK, REPOSITORY, unpacked

CHECKOUT = os.environ["COMFYUI_PATH"]
IDS = (
    "['CompileModel', 'MagCache', 'MagCacheBenchmark', 'MagCacheCalibration', 'MagCacheCompare', "
    "'MagCacheEmojiModel', 'MagCacheFramePackWrapper', 'MagCacheReport', 'MagCacheTargetSpeed', "
    "'MagCacheWanVideoWrapper']"
)

LOAD = """
import importlib.util, sys
def load(folder):
    spec = importlib.util.spec_from_file_location(
        "pack_by_path", f"{folder}/__init__.py", submodule_search_locations=[folder]
    )
    pack = importlib.util.module_from_spec(spec)
    sys.modules["pack_by_path"] = pack
    spec.loader.exec_module(pack)
    return pack.NODE_CLASS_MAPPINGS
"""
BROKEN_MODELS = """
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "comfy.ldm" or name.startswith("comfy.ldm."):
            raise ImportError(f"{name} is broken")
sys.meta_path.insert(0, Broken())
"""


def run(script: str, folder: Path = REPOSITORY, checkout: str = CHECKOUT) -> str:
    """What a fresh Python prints that runs a script, with the pack's folder as its argument."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"PYTHONPATH": checkout, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", LOAD + script, str(folder)], env=environment, cwd=folder.parent,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.strip()


def test_it_loads_although_every_model_file_of_comfyui_is_broken() -> None:
    assert run(BROKEN_MODELS + "print(sorted(load(sys.argv[1])))") == IDS


def test_it_imports_no_name_of_a_model_file() -> None:
    script = """
nodes = load(sys.argv[1])
for node in nodes.values():
    node.INPUT_TYPES
print([name for name in sys.modules if name.startswith("comfy.ldm")])
"""
    assert run(script) == "[]"


def test_it_imports_nothing_that_comfyui_does_not_bring() -> None:
    script = """
before = set(sys.modules)
import torch
with_torch = set(sys.modules)
load(sys.argv[1])
new = {name.partition(".")[0] for name in set(sys.modules) - with_torch}
brought = {"pack_by_path", "torch", "comfy", "filelock", "PIL"}  # torch needs filelock
print(sorted(new - set(sys.stdlib_module_names) - brought))
"""
    assert run(script) == "[]"


def test_without_comfyui_it_is_empty_and_harmless(tmp_path: Path) -> None:
    assert run("print(sorted(load(sys.argv[1])))", checkout=str(tmp_path)) == "[]"


def _old_comfyui(tmp_path: Path, extension: str | None) -> str:
    """A stand-in for an older ComfyUI: its version, and what of the extension points it had."""
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "__init__.py").touch()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.3.30"')
    (tmp_path / "folder_paths.py").write_text("def get_user_directory(): return 'nowhere'")
    if extension is not None:
        (tmp_path / "comfy" / "patcher_extension.py").write_text(extension)
    return str(tmp_path)


@pytest.mark.parametrize(
    "extension",
    [None, "class WrappersMP:\n    OUTER_SAMPLE = 'outer_sample'\n    APPLY_MODEL = 'apply_model'"],
    ids=["none", "without PREDICT_NOISE"],
)
def test_an_older_comfyui_loads_it_and_each_node_says_what_it_needs(
    extension: str | None, tmp_path: Path
) -> None:
    script = """
from types import SimpleNamespace as S
nodes = load(sys.argv[1])
model = S(model=S(diffusion_model=type("WanModel", (), {})()))
calls = {
    "MagCache": ("auto", 0.1, 0.1, 2, 0, -1),
    "MagCacheCalibration": ("auto",),
    "MagCacheTargetSpeed": (2.0, "automatic"),
    "CompileModel": ("default", "eager", False, False),
}
for name, widgets in calls.items():
    nodes[name].INPUT_TYPES()
    try:
        nodes[name]().apply(model, *widgets)
    except RuntimeError as error:
        print(name, error)
"""
    says = "MagCache needs ComfyUI 0.3.52 or newer, this one is 0.3.30: update ComfyUI"
    lines = run(script, checkout=_old_comfyui(tmp_path, extension)).splitlines()
    ours = ("MagCache", "MagCacheCalibration", "MagCacheTargetSpeed", "CompileModel")
    assert lines == [f"{name} {says}" for name in ours]


def test_it_works_from_an_archive(tmp_path: Path) -> None:
    folder = unpacked(tmp_path / PACK)
    assert not (folder / ".git").exists()
    assert run("print(sorted(load(sys.argv[1])))", folder) == IDS
    script = "load(sys.argv[1]); print(sys.modules['pack_by_path.magcache'].__file__)"
    assert run(script, folder).startswith(str(folder))
