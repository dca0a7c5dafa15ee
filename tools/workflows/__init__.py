"""Writes `example_workflows/` from the node definitions of running ComfyUI servers.

    python -m tools.workflows http://127.0.0.1:8188 [another server ...]

Give one server for each version that must be able to open the examples. `tools.workflows.previews`
draws their previews in a headless browser.
"""

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "example_workflows"
