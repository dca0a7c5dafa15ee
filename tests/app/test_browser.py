"""The app in a headless Chromium, as a user drives it."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
from PIL import Image

from magcache.app.engine import Engine
from magcache.app.models import Models
from magcache.app.ui import Page

playwright = pytest.importorskip("playwright.sync_api", reason="the extra dev brings playwright")
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("CHROMIUM_PATH") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium: install one, or name it in CHROMIUM_PATH"
)
QUIET = ("no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update")
SHOTS = os.environ.get("MAGCACHE_SCREENSHOTS")  # a folder, to look at the pages


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the app is served with the tiny model."""
    folder = tmp_path_factory.mktemp("app")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
        patch.setenv("MAGCACHE_HOME", str(folder / "home"))
        page = Page(Engine(Models(tiny_only=True, resolution=32)), folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        page.launch("127.0.0.1", port)
        yield f"http://127.0.0.1:{port}"
        page.blocks.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        flags = [f"--{flag}" for flag in QUIET]
        running = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        running.close()


class User:
    """Someone with the page open."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def upload(self, path: Path) -> None:
        self.page.set_input_files("input[type=file]", path)

    def set(self, label: str, value: Any) -> None:
        field = self.page.get_by_label(label).first
        field.fill(str(value))
        field.press("Tab")

    def see(self, selector: str, text: str | re.Pattern[str]) -> str:
        """Waits for a text, and returns the whole one around it."""
        self.page.locator(selector, has_text=text).wait_for(timeout=30_000)
        return self.page.inner_text(selector)

    def shot(self, name: str) -> None:
        if SHOTS:
            self.page.screenshot(path=Path(SHOTS, f"{name}.png"), full_page=True)


@pytest.fixture
def user(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[User]:
    """`param` is the width of the window and the colour scheme."""
    width, scheme = getattr(request, "param", (1280, "light"))
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
    )
    context.set_default_timeout(30_000)
    page = context.new_page()
    someone = User(page)
    page.goto(address)
    page.wait_for_selector("#start")
    yield someone
    assert not someone.errors
    context.close()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "image.png"
    Image.radial_gradient("L").save(path)
    return path


def test_upload_generate_cancel_generate_again_download(
    user: User, image: Path, tmp_path: Path
) -> None:
    page = user.page
    user.upload(image)
    user.set("Prompt", "it turns")
    user.set("Length (seconds)", 120)
    user.see("#plan", "120.0 s of video in 100 sections")
    page.click("#start")
    user.see("#status", re.compile(r"section ([2-9]|\d\d) of 100"))
    assert page.is_disabled("#start")
    shown = user.see("#status", re.compile("about .* left"))
    assert "of 100" in shown and "/2.5k steps" in shown and "%" in shown
    page.wait_for_selector("#strips img")
    first, *_ = page.input_value("#schedule textarea").splitlines()
    assert first.endswith("12 of 25") and first.count("#") == 12 and first.count(".") == 13
    user.shot("running")
    page.click("#end")
    user.see("#status", "Cancelled")
    page.wait_for_selector("#start:enabled")
    assert page.is_disabled("#end") and not page.is_visible("#video")
    assert page.inner_text("#end") == "Cancel"

    user.set("Length (seconds)", 1)
    page.get_by_label("Compare with an uncached run").check()
    page.click("#start")
    shown = user.see("#status", "Done")
    assert "13 of 25\tsteps skipped" in shown and "1.2 s, 37 frames" in shown
    assert "dB\tPSNR to uncached" in shown and "SSIM to uncached" in shown
    page.wait_for_selector("#beside video")
    page.wait_for_selector("#picture img")
    playing = page.wait_for_selector("#video video")
    page.wait_for_function("video => video.readyState >= 2 && video.videoWidth == 32", arg=playing)
    with page.expect_download() as started:
        page.click("#video a[download], #video button[aria-label=Download]")
    file = tmp_path / "video.mp4"
    started.value.save_as(file)
    assert started.value.suggested_filename.startswith("FramePack-31337-1.2s-25steps-2x")
    assert imageio_ffmpeg.count_frames_and_secs(str(file))[0] == 37
    assert "computed   12 (" in page.input_value("#report textarea")
    assert page.input_value("#schedule textarea").endswith("12 of 25")
    user.shot("done")


@pytest.mark.parametrize("user", [(390, "dark")], indirect=True, ids=["phone"])
def test_mistakes_are_named_beside_the_button(user: User, image: Path, tmp_path: Path) -> None:
    page, damaged = user.page, tmp_path / "damaged.png"
    damaged.write_bytes(image.read_bytes()[:1000])
    page.click("#start")
    user.see("#problem", "Choose an image to start from.")
    user.upload(damaged)
    user.see("#problem", "The image is damaged: choose another one.")
    user.upload(image)
    page.wait_for_function("() => !document.querySelector('#problem')?.innerText.trim()")
    page.get_by_role("button", name="FramePack").click()
    user.set("Folder (optional)", tmp_path)
    page.click("#start")
    user.see("#problem", "holds no FramePack model")
    user.shot("phone")
    button, problem = (page.locator(s).bounding_box() for s in ("#start", "#problem"))
    assert 0 < problem["y"] - button["y"] < 200
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("user", [(1280, "dark")], indirect=True, ids=["dark"])
def test_the_small_model_needs_words_only(user: User) -> None:
    page = user.page
    page.get_by_label("Emoji").check()
    user.see("#plan", "1.0 s of video; 12 of 25 steps computed")
    page.wait_for_selector("#words button:visible, #words .gallery:visible")
    assert not page.get_by_text("Drop Image Here").is_visible()
    assert not page.get_by_role("button", name="Published rule").is_visible()
    page.click("#start")
    user.see("#problem", "Say what to draw, for instance green heart.")
    page.get_by_text("tiger face", exact=True).click()
    page.wait_for_function("() => document.querySelector('textarea').value == 'tiger face'")
    page.click("#start")
    assert "13 of 25\tsteps skipped" in user.see("#status", "Done")
    page.wait_for_function("() => document.querySelector('#video video').videoWidth == 256")
    user.shot("emoji")
    page.get_by_label("FramePack", exact=True).check()
    page.get_by_text("Drop Image Here").wait_for()
    page.get_by_text("tiger face", exact=True).wait_for(state="hidden")


def test_the_speed_comes_first_and_the_rule_is_folded_away(user: User, image: Path) -> None:
    page = user.page
    user.set("number input for Speed-up", 3)
    user.see("#plan", "8 of 25 steps per section computed")
    user.set("number input for Speed-up", 1)
    user.see("#plan", "all 25 steps per section computed")
    assert not page.get_by_label("number input for Threshold").is_visible()
    page.get_by_role("button", name="Published rule").click()
    page.get_by_label("Use the published rule").check()
    user.see("#plan", "12 of 25 steps per section computed")
    user.set("number input for Threshold", 0.3)
    user.see("#plan", "10 of 25 steps per section computed")
    user.upload(image)
    user.set("Length (seconds)", 1)
    page.click("#start")
    assert "15 of 25\tsteps skipped" in user.see("#status", "Done")
    user.shot("rule")


def test_a_page_that_is_closed_ends_its_run(
    browser: Any, address: str, user: User, image: Path
) -> None:
    other = User(browser.new_page())
    other.page.goto(address)
    other.page.wait_for_selector("#start")
    other.upload(image)
    other.set("Length (seconds)", 120)
    other.page.click("#start")
    other.see("#status", "section")
    other.page.close(run_before_unload=True)
    user.upload(image)
    user.set("Length (seconds)", 1)
    user.page.click("#start")  # waits for the other's run to end
    user.see("#status", "Done")
