"""`magcache demo` on the bundled model, at a few steps."""

import json

import numpy as np
import pytest
from PIL import Image

from magcache import cli
from magcache.cli import demo
from magcache.decide.by_plan import fewest_worth
from magcache.emoji import image as emoji
from magcache.images import difference

STEPS = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert cli.main(["demo", "--steps", str(STEPS), "--output", str(folder)]) == 0
    return folder, json.loads((folder / "demo.json").read_text())


def test_table_holds_uncached_and_each_setting_beside_plain_sampling(made):
    rows = made[1]["rows"]
    assert [row["name"].split(",")[0] for row in rows] == [
        "uncached", "MagCache 2x", "rule", "plain", "MagCache 2.8x", "rule", "plain",
    ]  # fmt: skip
    for row in rows:
        assert row["computed"] + row["skipped"] == row["steps"]
    assert rows[0]["computed"] == STEPS and rows[0]["difference"] is None
    assert (rows[1]["skipped"], rows[4]["skipped"]) == (
        STEPS // 2,
        STEPS - max(fewest_worth(STEPS), int(STEPS / 2.8)),
    )
    assert rows[2]["skipped"] >= 3 and rows[5]["skipped"] >= rows[2]["skipped"]
    assert rows[3]["steps"] == rows[2]["computed"] and rows[6]["steps"] == rows[5]["computed"]


def test_differences_are_of_images_that_resemble_the_uncached_ones(made):
    for row in made[1]["rows"][1:]:
        assert 15 < row["difference"]["psnr"] < 80
        assert 0.5 < row["difference"]["ssim"] < 1
        assert 0 < row["difference"]["flip"] < 0.5


def test_schedules_are_those_of_the_rows(made):
    for name, report in made[1]["reports"].items():
        counts = {row["name"]: row for row in made[1]["rows"]}[name]
        assert report["schedule"].count("#") == counts["computed"]
        assert report["schedule"][0] == "#"


@pytest.mark.parametrize("name", ["comparison", "magcache-2x", "rule-moderate"])
def test_pictures_are_written_and_show_something(made, name):
    pixels = np.asarray(Image.open(made[0] / f"{name}.png").convert("L"))
    assert min(pixels.shape) > 200 and pixels.std() > 10


def test_the_sampled_images_are_not_noise(made):
    """Emoji stand on white: the corners of most images are near it."""
    model = emoji.load()
    images = model.generate(model.prompts("demo")[:4], range(4), steps=STEPS)
    assert images[:, :, :2, :2].mean() > 0.8


def test_difference_of_equal_images_is_none_at_all():
    image = np.random.default_rng(0).random((1, 32, 32, 3))
    same = difference(image, image)
    assert same.psnr == np.inf and same.ssim == pytest.approx(1) and not same.flip


def test_psnr_of_a_known_error():
    """A tenth off everywhere is 20 dB."""
    grey = np.full((2, 16, 16, 3), 0.5)
    assert difference(grey, grey + 0.1).psnr == pytest.approx(20, abs=1e-3)


def test_images_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="cannot compare"):
        difference(np.zeros((1, 16, 16, 3)), np.zeros((1, 8, 8, 3)))


def test_progress_advances_once_a_step(monkeypatch):
    seen: dict[str, list[int]] = {}
    totals: dict[str, int] = {}

    def on_step(name, number, total):
        seen.setdefault(name, []).append(number)
        totals[name] = total

    monkeypatch.setattr(demo, "SETTINGS", {"fast": demo.SETTINGS["fast"]})
    demo.run(on_step, steps=3)
    assert list(seen)[:2] == ["uncached", "calibration"] and len(seen) == 5
    assert seen == {name: list(range(total + 1)) for name, total in totals.items()}
