"""ComfyUI as a host: its process, started once per condition."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from .comfyui import MARK
from .condition import Condition, Setting, grid
from .counting import Cost
from .hosts import Sample
from .subjects import Subject

WAYS = ("EasyCache", "LazyCache")
THRESHOLDS = [float(x) for x in np.geomspace(0.02, 1.5, 8).round(3)]


def python_of(checkout: Path) -> str:
    """$COMFYUI_PYTHON, the checkout's own venv, or the Python that runs here."""
    own = checkout / "venv" / "bin" / "python"
    return os.environ.get("COMFYUI_PYTHON") or (str(own) if own.exists() else sys.executable)


class ComfyHost:
    """ComfyUI's EasyCache and LazyCache, against ComfyUI's own uncached run."""

    name = "ComfyUI"

    def __init__(self, subject: Subject, condition: Condition, checkout: Path) -> None:
        self.notes: list[str] = []
        self._scratch = tempfile.TemporaryDirectory()
        self._path = Path(self._scratch.name) / "frames.npy"
        self._log = (Path(self._scratch.name) / "log.txt").open("w+")
        self._process = subprocess.Popen(
            [
                *(python_of(checkout), "-m", "bench.quality.comfyui", subject.name),
                json.dumps(asdict(condition)),
            ],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "COMFYUI_PATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ways(self) -> list[str]:
        return list(WAYS)

    def settings(self, way: str) -> Sequence[Setting]:
        return grid(reuse_threshold=THRESHOLDS, start_percent=(0.05, 0.15), end_percent=(0.95,))

    def batch(self, way: str) -> int:
        return 1  # both decide from the activations of the whole batch

    def knob(self, way: str) -> str | None:
        return "reuse_threshold"

    def sample(
        self,
        way: str,
        setting: Setting,
        prompts: Sequence[str],
        seeds: Sequence[int],
        batch: int,
        full: float | None,
    ) -> Sample:
        asked = {"way": way, "setting": setting, "prompts": list(prompts), "seeds": list(seeds)}
        asked |= {"batch": batch, "full": full, "path": str(self._path)}
        cost = self._ask(json.dumps(asked))
        return Sample(np.load(self._path), cost)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._log.close()
        self._scratch.cleanup()

    def _ask(self, line: str) -> Cost:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last output says why
        for answer in self._process.stdout:
            if answer.startswith(MARK):
                return Cost(**json.loads(answer[len(MARK) :]))
        self._log.seek(0)
        raise RuntimeError(f"ComfyUI's process ended:\n{self._log.read()[-2000:]}")
