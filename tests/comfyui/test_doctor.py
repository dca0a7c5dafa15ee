"""`magcache doctor` on the real ComfyUI: all its families, other packs, and nothing changed."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from comfyserver import PACK, REPOSITORY, unpacked

from magcache.doctor.tiny import EVERY
from magcache.hosts.comfyui.models import UNFIT

CHECKOUT = Path(os.environ["COMFYUI_PATH"])
COMPATIBILITY = REPOSITORY / "docs" / "compatibility.md"
WITHIN = 300  # seconds, on a shared machine

COMPILES = """
class Other: pass
NODE_CLASS_MAPPINGS = {"CompileModel": Other, "Something": Other}
"""
REPLACES = """
import comfy.ldm.flux.model
kept = comfy.ldm.flux.model.Flux.forward_orig
def forward_orig(self, *args, **kwargs):
    return kept(self, *args, **kwargs)
comfy.ldm.flux.model.Flux.forward_orig = forward_orig
NODE_CLASS_MAPPINGS = {}
"""
BROKEN = "import a_package_that_is_not_there"
LOUD = """
import folder_paths, os, sys
print('{"event": "done"}', flush=True)
with open(os.path.join(folder_paths.get_user_directory(), "loud.ini"), "w") as file:
    file.write("settings")
NODE_CLASS_MAPPINGS = {}
"""


def doctor(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON of the command, as a process of its own."""
    command = [
        sys.executable, "-m", "magcache.cli", "doctor", "--comfyui", str(CHECKOUT), "--cpu",
        "--python", sys.executable, "--json", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=WITHIN
    )
    assert done.stdout, done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout)


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """All that is in a folder, files with size and time; without compiled files and .git."""
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in (".git", "__pycache__")]
        found |= {os.path.join(place, name): (0, 0) for name in folders}
        for path in (os.path.join(place, name) for name in files):
            status = os.lstat(path)
            found[path] = (status.st_size, status.st_mtime_ns)
    return found


def rows(families: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    names = ("name", "network", "result", "curve")
    return [tuple(family[name] for name in names) for family in families]


@pytest.fixture(scope="module")
def whole() -> tuple[int, dict[str, Any], bool]:
    """One run on the installation as it is, and whether it is as before."""
    before = listing(CHECKOUT)
    status, told = doctor()
    return status, told, listing(CHECKOUT) == before


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base directory with an older MagCache and packs that are in its way."""
    base = tmp_path_factory.mktemp("base")
    nodes = base / "custom_nodes"
    version = unpacked(nodes / PACK) / "pyproject.toml"
    text = version.read_text(encoding="utf-8")
    version.write_text(re.sub(r'^version = ".*"', 'version = "0.0.9"', text, flags=re.MULTILINE))
    packs = {"Compiles": COMPILES, "Replaces": REPLACES, "Broken": BROKEN, "Loud": LOUD}
    for name, code in packs.items():
        (nodes / name).mkdir()
        (nodes / name / "__init__.py").write_text(code, encoding="utf-8")
    (base / "user").mkdir()
    return base


@pytest.fixture(scope="module")
def crowded(base: Path) -> tuple[int, dict[str, Any], bool]:
    """One run beside those packs."""
    before = listing(base)
    status, told = doctor("--base-directory", str(base), "--family", "flux")
    return status, told, listing(base) == before


def test_every_family_of_this_comfyui_works_or_is_known_not_to(whole: Any) -> None:
    status, told, _ = whole
    assert (status, told["unfinished"]) == (0, "")
    assert {each["name"] for each in told["families"]} == {*EVERY}
    for each in told["families"]:
        unfit = each["network"] in UNFIT
        assert each["result"] == ("runs uncached" if unfit else "works"), each
        assert (each["skipped"], each["evaluations"]) == (0 if unfit else 4, 8), each
        assert unfit or each["error"] < 1e-5, each
        assert bool(each["reason"]) == unfit, each


def test_it_says_what_it_looked_at(whole: Any) -> None:
    import comfyui_version
    import torch

    _, told, _ = whole
    assert told["versions"] == {
        "ComfyUI": comfyui_version.__version__,
        "torch": torch.__version__,
        "Python": ".".join(map(str, sys.version_info[:3])),
    }
    assert (told["comfyui"], told["python"]) == (str(CHECKOUT), sys.executable)
    assert told["python_from"] == "from --python"
    assert told["pack"] == {"name": "", "version": told["own_version"]}
    assert told["memory"]["ram"]["free"] > 0 and told["memory"]["disk"]["free"] > 0
    assert told["double_ids"] == [] and told["replaced"] == []


def test_it_changes_nothing_in_the_installation(whole: Any, crowded: Any, base: Path) -> None:
    assert whole[2], "the checkout is not as it was"
    assert crowded[2], "the base directory is not as it was, user folder included"
    assert not list(base.rglob("__pycache__"))


def test_the_documented_table_is_what_it_finds(whole: Any) -> None:
    _, told, _ = whole
    head = f"## ComfyUI {told['versions']['ComfyUI']}\n"
    section = COMPATIBILITY.read_text(encoding="utf-8").partition(head)[2].partition("\n## ")[0]
    if not section:
        pytest.skip(f"docs/compatibility.md has no ComfyUI {told['versions']['ComfyUI']}")
    cells = [
        tuple(cell.strip(" `") for cell in line.split("|")[1:5])
        for line in section.splitlines()
        if line.startswith("| ") and not line.startswith("| family")
    ]
    assert cells == rows(told["families"]), "run python -m tools.tables --comfyui PATH"


def test_the_installed_pack_is_the_one_that_is_tried(crowded: Any) -> None:
    _, told, _ = crowded
    assert told["pack"] == {"name": PACK, "version": "0.0.9"}
    assert rows(told["families"]) == [("flux", "Flux", "works", "published")]
    (version,) = [p for p in told["problems"] if p["what"].startswith(f"custom_nodes/{PACK} is")]
    assert version["what"].endswith(f"this command is {told['own_version']}, so 0.0.9 was tested")
    assert version["advice"] == "update the custom node, the older of the two"


def test_an_id_that_another_pack_registers_is_a_problem(crowded: Any) -> None:
    status, told, _ = crowded
    assert status == 1
    (found,) = told["double_ids"]
    assert (found["id"], found["packs"]) == ("CompileModel", ["Compiles"])
    assert found["in_force"] in ("Compiles", PACK)
    assert told["problems"][0]["kind"] == "problem"
    registered = f"CompileModel: registered by {PACK} (MagCache 0.0.9) and by Compiles"
    assert told["problems"][0]["what"] == registered


def test_a_replaced_forward_is_told_of(crowded: Any) -> None:
    _, told, _ = crowded
    assert told["replaced"] == [{"class": "Flux", "function": "forward_orig", "pack": "Replaces"}]


def test_a_pack_that_cannot_be_loaded_breaks_nothing(crowded: Any) -> None:
    _, told, _ = crowded
    loaded = {each["name"]: each["loaded"] for each in told["custom_nodes"]}
    assert loaded == {PACK: True, "Compiles": True, "Replaces": True, "Broken": False, "Loud": True}
    (broken,) = [p for p in told["problems"] if "Broken" in p["what"]]
    assert broken["what"].endswith("No module named 'a_package_that_is_not_there'")
    assert broken["advice"] == "MagCache is not affected"
    assert told["unfinished"] == ""
