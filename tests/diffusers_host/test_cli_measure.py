"""`magcache measure` on real pipelines: the bundled ones, and one that was saved to a folder."""

import getpass
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from magcache import cli
from magcache.cli import measure

SMALL = ["--height=32", "--width=32", "--frames=5", "--dtype=float32", "--device=cpu", "--cfg=3"]


def measured(*arguments: str, output: Path) -> tuple[int, str]:
    """The exit status, and the newest text that can be sent."""
    status = cli.main(["measure", *arguments, f"--output={output}"])
    files = sorted(output.glob("measured*.md"), key=lambda file: file.stat().st_mtime_ns)
    return status, files[-1].read_text(encoding="utf-8") if files else ""


def table(text: str) -> dict[str, list[str]]:
    """The cells of each row, by its name."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: rest for name, *rest in cells}


def test_the_bundled_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--steps=12", "--speeds=2", "--prompt=fox face", "--prompt=red apple"]
    status, text = measured("emoji", *options, output=tmp_path)
    assert status == 0 and text in capsys.readouterr().out
    rows = table(text)
    assert [*rows] == ["uncached, 12 steps", "MagCache 2x", "plain, 6 steps"]
    assert rows["MagCache 2x"][0] == "6 of 12"
    fast, fewer = (float(rows[name][3].split()[0]) for name in [*rows][1:])
    assert fast > fewer > 15
    with Image.open(tmp_path / "measured.png") as picture:
        assert picture.height > 300 and np.asarray(picture.convert("L")).std() > 20


def test_the_text_tells_versions_and_settings_and_nothing_private(tmp_path: Path) -> None:
    options = ["--steps=9", "--speeds=2", "--prompt=fox face", "--cfg=2"]
    _, text = measured("emoji", *options, output=tmp_path / "of-somebody")
    for told in (r"MagCache [\d.]+, diffusers [\d.]+", "Python 3", "FluxTransformer2DModel",
                 "7.73 million weights, float32", "FlowMatchEulerDiscreteScheduler, 9 steps, CFG 2",
                 "pictures: 32x32", "learned before: no run of this model"):  # fmt: skip
        assert re.search(told, text), told
    for private in ("fox", "somebody", str(Path.home()), str(tmp_path), f"{getpass.getuser()}/"):
        assert private not in text


def test_the_second_measurement_knows_that_the_model_has_been_seen(tmp_path: Path) -> None:
    options = ["--steps=9", "--speeds=2", "--prompt=fox face"]
    _, first = measured("emoji-turbo", *options, output=tmp_path)
    _, text = measured("emoji-turbo", *options, output=tmp_path)
    assert "learned before: 1 run of this model" in text and ", CFG 1\n" in text
    assert (tmp_path / "measured.md").read_text(encoding="utf-8") == first, "it is kept"


def test_a_saved_pipeline_of_videos(saved_wan: Path, tmp_path: Path) -> None:
    options = [*SMALL, "--steps=8", "--speeds=1.3,2", "--prompt=a cat"]
    status, text = measured(str(saved_wan), *options, output=tmp_path)
    assert status == 0
    assert "WanPipeline, WanTransformer3DModel" in text
    assert "pictures: 5 of 32x32 a sample" in text and str(saved_wan) not in text
    assert table(text)["MagCache 1.3x"][0] == "6 of 8"


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[tuple[str, int]] = []
    sample = measure._Generations.sample

    def counted(self, way, number, on_step):
        if len(made) == 4:
            made.append(("", 0))
            signal.raise_signal(signal.SIGINT)
        made.append((way.name, number))
        return sample(self, way, number, on_step)

    monkeypatch.setattr(measure._Generations, "sample", counted)
    options = ["--steps=9", "--speeds=2", "--prompt=fox face", "--prompt=red apple"]
    assert measured("emoji", *options, output=tmp_path) == (130, "")
    assert "Ctrl+C; 4 runs are kept, run the same command again to go on" in capsys.readouterr().err
    status, text = measured("emoji", *options, output=tmp_path)
    assert status == 0 and len(table(text)) == 3
    made.remove(("", 0))
    assert len(made) == len({*made}) == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["emoji", "--steps=1"], "a run of 1 step leaves nothing to skip"),
        (["emoji", "--speeds=2,fast"], "'fast' is not a speed: give numbers above 1 and up to 4"),
        (["emoji", "--speeds=1"], "'1' is not a speed"),
        (["no/such/folder"], "the model no/such/folder cannot be loaded"),
        (["."], "is not a saved pipeline: it has no model_index.json"),
        (["emoji", "--prompt=zzz"], "does not know the word 'zzz'"),
        (["emoji-unet", "--shift=3"], "takes no --shift"),
        (["emoji", "--device=cuda:99"], "cannot be used here"),
    ],
)
def test_mistakes(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured(*arguments, output=tmp_path) == (2, "")
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
