"""One generation after another with the tiny model, without a browser."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from magcache.app import render, tiny
from magcache.app.engine import Engine, Result
from magcache.app.models import Models
from magcache.app.progress import Cancelled, Progress, Tell
from magcache.app.settings import EMOJI, Problem, Settings
from magcache.app.ui import Page
from magcache.emoji import video as emoji_video


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAGCACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Models(tiny_only=True, resolution=32))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.linear_gradient("L").save(path)
    return path


def ignored(_: Progress) -> None:
    """Who does not want to be told."""


def settings(start: Path, **more: Any) -> Settings:
    """Two sections of ten steps, by the published rule."""
    given = {"image": start, "prompt": "it turns", "seconds": 2.4, "steps": 10, "rule": True}
    return Settings(**{**given, **more})


def test_what_is_told_while_a_video_is_made(engine: Engine, image: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    done = engine.generate(settings(image), tmp_path, told.append)
    last = told[-1]
    assert [len(s) for s in last.schedules] == [10, 10] and len(last.strips) == 2
    assert " ".join(last.schedules) == done.report.schedule
    assert 0 < done.report.skipped < 20 and done.report.speedup > 0
    assert [event.done for event in told] == sorted(event.done for event in told)
    assert told[0].done == 0 and last.done == last.total == 20
    assert [event.left is None for event in told] == [event.done < 2 for event in told]
    assert told[-2].left > last.left == 0
    assert last.strips[0].size == (3 * 120, 120)
    assert len(last.strips[0].getcolors(10**6) or []) > 10
    assert done.picture is not None and done.picture.stat().st_size > 1000
    assert done.video is not None and imageio_ffmpeg.count_frames_and_secs(str(done.video))[0] == 73
    assert done.video.name == "FramePack-31337-2.4s-10steps-thresh0.1.mp4"
    assert done.quality is None and done.beside is None


@pytest.mark.parametrize("model", ["FramePack", "FramePack-F1"])
def test_without_magcache_the_video_is_the_pipelines_own(
    model: str, engine: Engine, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[np.ndarray] = []

    def keep(path: Path, frames: np.ndarray, **_: Any) -> Path:
        kept.append(frames)
        return path

    monkeypatch.setattr("magcache.app.engine.write_video", keep)
    asked = settings(image, model=model, rule=False, speedup=1, seconds=1, cfg=2.0)
    done = engine.generate(asked, tmp_path, ignored)
    assert done.report.skipped == 0 and done.picture is None
    pipe = tiny.build()
    pipe.vae.enable_tiling()
    with Image.open(image) as opened:
        start = opened.convert("RGB").resize((32, 32), Image.Resampling.LANCZOS)
    frames = pipe(
        image=start, prompt="it turns", negative_prompt="", height=32, width=32, num_frames=33,
        num_inference_steps=10, true_cfg_scale=2.0, guidance_scale=10.0, output_type="pil",
        generator=torch.Generator().manual_seed(31337), sampling_type=asked.kind.sampling,
    ).frames[0]  # fmt: skip
    assert np.array_equal(np.stack(frames), kept[0])


def test_a_comparison_has_both_videos_and_their_difference(
    engine: Engine, image: Path, tmp_path: Path
) -> None:
    asked = settings(image, compare=True, seconds=1, steps=25)
    told: list[Progress] = []
    done = engine.generate(asked, tmp_path, told.append)
    assert any(event.stage.startswith("Uncached, to compare: Sampling") for event in told)
    for again in (False, True):  # each sampling from its begin to its end
        events = [e for e in told if e.stage.startswith("Uncached, to compare") == again]
        assert [event.done for event in events] == sorted(event.done for event in events)
        assert events[0].done == 0 and events[-1].done == events[-1].total == 25
    assert done.quality is not None and 10 < done.quality.psnr < 100 and done.quality.ssim < 1
    assert done.beside is not None and done.beside != done.video
    assert done.uncached_seconds is not None and done.uncached_seconds > 0
    assert done.report.computed == 12
    same = engine.generate(settings(image, compare=True, max_skip=0), tmp_path, ignored)
    assert same.quality is not None and same.quality.figures()["PSNR"] == "equal"


def test_a_speedup_accelerates_every_section(engine: Engine, image: Path, tmp_path: Path) -> None:
    asked = settings(image, rule=False, speedup=2)
    report = engine.generate(asked, tmp_path, ignored).report
    assert [run.skipped for run in report.runs] == [4, 4]  # of ten steps at least six are computed


def emoji(**more: Any) -> Settings:
    """A clip of the small trained model in few steps."""
    return Settings(**{"model": EMOJI, "prompt": "green heart", "steps": 10, **more})


def test_the_small_model_draws_what_the_words_say(engine: Engine, tmp_path: Path) -> None:
    told: list[Progress] = []
    done = engine.generate(emoji(compare=True), tmp_path, told.append)
    assert done.report.schedule == emoji().schedule(), "the plan shown before the first run"
    assert done.report.schedule.count("#") == 6 and done.quality and done.quality.psnr > 25
    assert done.video is not None and done.video.name == "Emoji-31337-1.0s-10steps-2x.mp4"
    assert imageio_ffmpeg.count_frames_and_secs(str(done.video)) == (8, 1.0)
    assert [event.done for event in told if event.total][-1] == 10
    (strip,) = told[-1].strips
    colours = np.asarray(strip, dtype=float).reshape(-1, 3)
    red, green, blue = colours[colours.min(1) < 200].mean(0)
    assert green > red + 50 and green > blue + 20
    assert (colours[0] > 200).all(), "on white"


def test_at_speed_one_it_is_the_models_own_clip(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[np.ndarray] = []

    def keep(path: Path, frames: np.ndarray, **_: Any) -> Path:
        kept.append(frames)
        return path

    monkeypatch.setattr("magcache.app.engine.write_video", keep)
    done = engine.generate(emoji(speedup=1), tmp_path, ignored)
    (clip,) = emoji_video.load().generate(["green heart"], [31337], 10)
    whole = (clip.permute(1, 2, 3, 0) * 255).round().byte().numpy()
    assert np.array_equal(kept[0], whole) and done.report.skipped == 0


def test_words_that_the_small_model_does_not_know_are_named(engine: Engine, tmp_path: Path) -> None:
    done = engine.generate(emoji(prompt="a green heart, glittering", steps=2), tmp_path, ignored)
    assert "does not know: a, glittering" in render.result(done)
    for prompt, message in {"": "Say what to draw", "glittering": "does not know"}.items():
        with pytest.raises(Problem, match=message):
            engine.generate(emoji(prompt=prompt), tmp_path, ignored)


def test_where_its_files_are_missing_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emoji_video.keywords, "WEIGHTS", {"emoji-video": "none"})
    with pytest.raises(Problem, match="The model emoji-video is neither in"):
        Engine(Models()).generate(emoji(), tmp_path, ignored)


def test_cancelled_nothing_is_left_and_the_next_run_is_as_the_first(
    engine: Engine, image: Path, tmp_path: Path
) -> None:
    expected = engine.generate(settings(image), tmp_path, ignored).video
    assert expected is not None
    whole = expected.read_bytes()
    expected.unlink()

    def until_the_second_section(now: Progress) -> None:
        if len(now.schedules) > 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        engine.generate(settings(image), tmp_path, until_the_second_section)
    assert not expected.exists()
    model = engine._models.get(settings(image), lambda _: None)
    assert "forward" not in vars(model.pipe.transformer)
    assert type(model.pipe).__module__.startswith("diffusers.")
    again = engine.generate(settings(image), tmp_path, ignored).video
    assert again is not None and again.read_bytes() == whole


def test_closing_the_page_ends_the_run(
    engine: Engine, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, own = Page(engine, tmp_path), engine.generate
    left: Any = SimpleNamespace(session_hash="left")
    told: list[Progress] = []

    def generate(asked: Settings, folder: Path, tell: Tell) -> Result:
        def leave(now: Progress) -> None:
            told.append(now)
            page._left(left)
            tell(now)

        return own(settings(image, seconds=60), folder, leave)

    monkeypatch.setattr(engine, "generate", generate)
    updates = page._generate(left, *(getattr(Settings(), n) for n in page.form.inputs))
    *_, last = updates
    assert len(told) == 1 and not page._jobs
    assert "Cancelled" in last[page.form.status]
    engine.generate(settings(image, seconds=1), tmp_path, ignored)  # it is free again


def test_what_the_user_can_put_right_is_said(engine: Engine, image: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    cases: dict[str, dict[str, Any]] = {
        "Choose an image to start from": {"image": None},
        "This file is not an image": {"image": text},
        "holds no FramePack model": {"folder": "/nowhere"},
    }
    for message, given in cases.items():
        with pytest.raises(Problem, match=message):
            engine.generate(settings(image, **given), tmp_path, ignored)


def test_full_gpu_memory_is_a_problem_and_the_model_is_let_go(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Models(tiny_only=True, resolution=32))

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = engine._models.get(settings(image), lambda _: None)
    handle = model.pipe.transformer.norm_out.register_forward_pre_hook(full)
    with pytest.raises(Problem, match='Raise "GPU memory to leave free"'):
        engine.generate(settings(image), tmp_path, ignored)
    handle.remove()
    assert engine._models._model is None
    assert engine.generate(settings(image, seconds=1), tmp_path, ignored).video


def test_the_page_shows_users_words_as_text(engine: Engine, image: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    assert "<script>" not in render.problem(evil) + render.note(evil, evil)
    told: list[Progress] = []
    done = engine.generate(settings(image), tmp_path, told.append)
    shown = render.schedule(told[-1].schedules)
    assert shown.count("#") == done.report.computed
    assert f"**{done.report.skipped} of 20** | steps skipped" in render.result(done)
    assert "section   " not in render.report(done) and done.report.schedule in render.report(done)


def test_of_a_long_video_every_section_has_a_line() -> None:
    lines = render.schedule(("#.",) * 50).splitlines()
    assert lines[0] == "  1  #.  1 of 2" and lines[-1] == " 50  #.  1 of 2" and len(lines) == 50
