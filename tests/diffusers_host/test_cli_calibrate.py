"""`magcache calibrate` on real pipelines: the bundled one, and one that was saved to a folder."""

from pathlib import Path

import pytest

from magcache import cli
from magcache.curves.store import Store


def test_a_saved_pipeline(saved_wan: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--height=32", "--width=32", "--frames=5", "--dtype=float32", "--device=cpu"]
    options += ["--steps=9", "--cfg=3", f"--home={tmp_path}", "--prompt=a cat", "--prompt=cat"]
    assert cli.main(["calibrate", str(saved_wan), *options]) == 0
    assert "9 steps, shift 3, FlowMatchEulerDiscreteScheduler, CFG 3, 2 prompts" in (
        capsys.readouterr().out
    )
    (found,) = Store(tmp_path).calibrations().values()
    assert found.model == "WanTransformer3DModel"
    assert found.grams.keys() == {"cond", "uncond"} and found.identity is not None


def test_the_bundled_model_at_another_shift(tmp_path: Path) -> None:
    options = ["--steps=9", "--shift=3", f"--home={tmp_path}", "--name=mine"]
    assert cli.main(["calibrate", "emoji", *options]) == 0
    found = Store(tmp_path).load("mine")
    assert found.settings["shift"] == 3 and len(found.grams["cond"].sigmas) == 9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["emoji", "--steps=1"], "give a whole number from 2 to 5,000"),
        (["no/such/folder"], "the model no/such/folder cannot be loaded"),
        (["emoji-unet"], "cannot be calibrated: StableDiffusionXLPipeline is neither"),
        (["emoji", "--prompt=zzz"], "does not know the word 'zzz'"),
    ],
)
def test_mistakes(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["calibrate", *arguments, f"--home={tmp_path}"]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_a_folder_that_diffusers_cannot_read_is_told_in_words(
    saved_wan: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "model").mkdir()
    for text in ("[]", "{", '{"_class_name": 7}', '{"_class_name": "WanPipeline", "vae": 1}'):
        (tmp_path / "model" / "model_index.json").write_text(text)
        assert cli.main(["calibrate", str(tmp_path / "model"), f"--home={tmp_path}"]) == 2
        said = capsys.readouterr().err
        assert f"magcache: the model {tmp_path / 'model'} cannot be loaded: " in said
        assert "Traceback" not in said


def test_an_argument_that_the_pipeline_does_not_take(
    saved_wan: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture = tmp_path / "a.png"
    from PIL import Image

    Image.new("RGB", (8, 8)).save(picture)
    options = [f"--image={picture}", "--dtype=float32", "--device=cpu", f"--home={tmp_path}"]
    assert cli.main(["calibrate", str(saved_wan), *options]) == 2
    assert "WanPipeline takes no image" in capsys.readouterr().err
