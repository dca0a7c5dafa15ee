"""Tests in a real ComfyUI, in this process. They need its checkout and its requirements.

    COMFYUI_PATH=~/ComfyUI path/to/its/python -m pytest tests/comfyui

Without them every test is skipped, with the reason.
"""

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKOUT = os.environ.get("COMFYUI_PATH", "")


def _unavailable() -> str:
    if not CHECKOUT:
        return "COMFYUI_PATH does not name a ComfyUI checkout"
    if not (Path(CHECKOUT) / "comfy" / "sd.py").exists():
        return f"COMFYUI_PATH={CHECKOUT} is no ComfyUI checkout"
    sys.path[:0] = [str(HERE), CHECKOUT]  # HERE: the helpers beside the tests
    # Attention as on a GPU: what ComfyUI takes on a bare CPU reads the free memory at each call.
    arguments, sys.argv = sys.argv, [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.sd
        import nodes  # noqa: F401
    except ImportError as error:
        del sys.path[:2]
        return f"{sys.executable} cannot run ComfyUI: {error}"
    finally:
        sys.argv = arguments
    return ""


REASON = _unavailable()


class _SkippedModule(pytest.Module):
    """A test file that cannot be imported here: one skip, with the reason."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip(REASON, allow_module_level=True)


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    if REASON and HERE in module_path.parents:
        return _SkippedModule.from_parent(parent, path=module_path)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.comfyui)


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrations, and what samplings teach, stay in the test."""
    if not REASON:
        import folder_paths

        monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
