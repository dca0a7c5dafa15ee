"""The package as it is installed: which version it says it is, and what the wheel brings."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import magcache
from magcache.emoji import keywords

ROOT = Path(__file__).parents[1]
SHIPPED = [ROOT / "__init__.py", *sorted((ROOT / "magcache").rglob("*.py"))]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the package now lies in, as one without pyproject.toml."""
    monkeypatch.setattr(magcache, "__file__", str(tmp_path / "magcache" / "__init__.py"))
    return tmp_path


def test_the_version_is_that_of_pyproject() -> None:
    found = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found and magcache.__version__ == found[1]


def test_a_checkout_has_its_own_version_whatever_is_installed(elsewhere: Path) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    other = text.replace(f'version = "{magcache.__version__}"', 'version = "99.0"')
    (elsewhere / "pyproject.toml").write_text(other, encoding="utf-8")
    assert magcache._version() == "99.0" != version("magcache")


@pytest.mark.parametrize("beside", [None, '[project]\nname = "other"\nversion = "99.0"\n'])
def test_an_installed_one_has_the_installed_version(elsewhere: Path, beside: str | None) -> None:
    """Packages have put a pyproject.toml of their own into site-packages."""
    if beside:
        (elsewhere / "pyproject.toml").write_text(beside, encoding="utf-8")
    assert magcache._version() == version("magcache")


def test_a_model_that_is_not_there_says_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keywords, "__file__", str(tmp_path / "magcache" / "emoji" / "keywords.py"))
    with pytest.raises(FileNotFoundError) as caught:
        keywords.find_folder("emoji-video")
    for place in ("magcache/models/emoji-video", "models/emoji-video"):
        assert str(tmp_path / place) in str(caught.value)
    assert "sdist" in str(caught.value) and "repository" in str(caught.value)


def decodes(path: Path) -> bool:
    """Whether it has none of the five bytes that mean nothing in Windows' western code page."""
    try:
        return bool(path.read_text(encoding="cp1252"))
    except UnicodeDecodeError:
        return False


def messages(path: Path) -> str:
    """All strings of a module but its docstrings, and the words that only a search sees."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documents = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SEARCH_ALIASES":
            documents += [*ast.walk(node.value)]
    values = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "".join(str(node.value) for node in values if node not in documents)


def test_a_tool_that_reads_the_pack_with_windows_encoding_gets_through() -> None:
    """Registries and virus scanners look into each file."""
    assert not [str(path) for path in SHIPPED if path.stat().st_size and not decodes(path)]


def test_what_is_said_can_be_written_with_windows_encoding() -> None:
    """A log that goes to a file has it, and a character outside would be a traceback there."""
    for path in SHIPPED:
        messages(path).encode("cp1252")


def imported(path: Path) -> set[str]:
    """The packages that a file imports, wherever in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    names += [
        n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level
    ]
    return {name.partition(".")[0] for name in names}


def test_all_that_the_tests_in_comfyui_import_is_installed_for_them() -> None:
    """By ComfyUI's own requirements, or by the file that the workflow and CONTRIBUTING name."""
    folder = ROOT / "tests" / "comfyui"
    needed = set.union(*map(imported, [*folder.glob("*.py"), ROOT / "tests" / "conftest.py"]))
    ours = {"magcache", "tests", "tools", *(path.stem for path in folder.glob("*.py"))}
    comfyui = {"app", "comfyui_version", "folder_paths", "nodes"}
    brought = {"torch", "numpy", "PIL", "aiohttp", "safetensors"}
    left = needed - ours - comfyui - brought - {*sys.stdlib_module_names}
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = {line.partition(">=")[0] for line in lines if not line.startswith("#")}
    assert {name for name in left if not name.startswith("comfy")} == asked
    for place in ("CONTRIBUTING.md", ".github/workflows/tests.yml"):
        assert "tests/comfyui/requirements.txt" in (ROOT / place).read_text(encoding="utf-8")


def test_each_python_that_is_named_is_run() -> None:
    named = re.findall(r":: Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text("utf-8"))
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8")
    (run,) = re.findall(r"python: \[(.*)\]", workflow)
    assert run == ", ".join(f'"{version}"' for version in named)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as pip would."""
    pytest.importorskip("hatchling")
    built = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (file,) = built.glob("*.whl")
    zipfile.ZipFile(file).extractall(folder := tmp_path_factory.mktemp("site-packages"))
    return folder


def run(code: str, folder: Path) -> str:
    """What a fresh Python prints, all of it, that finds packages in `folder` first."""
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        command, env=environment, cwd=folder, text=True, stdout=-1, stderr=subprocess.STDOUT
    ).stdout


def test_the_wheel_knows_its_version_and_its_model(wheel: Path) -> None:
    code = """
import magcache
from magcache.emoji import image
image.load()
print(magcache.__file__, magcache.__version__)
"""
    file, told = run(code, wheel).split()[-2:]
    assert file.startswith(str(wheel)) and told == magcache.__version__


def test_the_wheel_brings_the_models_of_the_demo_and_the_app(wheel: Path) -> None:
    brought = {folder.name for folder in (wheel / "magcache" / "models").iterdir()}
    assert brought == {"emoji", "emoji-video"}


def test_the_wheel_says_where_to_get_the_model_that_it_does_not_bring(wheel: Path) -> None:
    said = run("from magcache.emoji import unet; unet.load()", wheel)
    assert f"neither in {wheel / 'magcache' / 'models' / 'emoji-unet'}" in said
    assert "Copy models/emoji-unet from the repository or the source archive" in said
