"""Makes `example_workflows/` from the node definitions of running ComfyUI servers.

    python -m tools.workflows http://127.0.0.1:8188 [another server ...]

Give a server of each version that the examples have to open in. `tools.workflows.previews`
draws their previews in a headless browser.
"""

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "example_workflows"
