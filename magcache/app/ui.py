"""The page: what happens when the user does something."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from . import render
from .engine import Engine, Result
from .files import LARGEST_FILE, read_image
from .form import HIDDEN, Form
from .progress import Cancelled, Job, Progress
from .settings import MODES, Problem, Settings

log = logging.getLogger("magcache")
_STYLE = Path(__file__).with_name("style.css")
_FONT = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "sans-serif"]
_PACE = 0.2  # seconds: of updates that come faster the browser shows only the last one's part

Update = dict[Any, Any]
Work = Callable[[Settings, Job, Path], Iterator[Progress | Result]]


class Page:
    """The app in the browser.

    Args:
        engine: Makes the videos.
        folder: Where they are kept.
        subtitle: Shown under the title.
    """

    def __init__(self, engine: Engine, folder: Path, subtitle: str) -> None:
        self._engine = engine
        self._folder = folder
        self._jobs: dict[str, Job] = {}  # of each session, the one under way
        # What Gradio keeps is deleted after a day; the folder itself goes when the app ends.
        self.blocks = gr.Blocks(
            title="MagCache · FramePack", analytics_enabled=False, delete_cache=(3600, 86400)
        )
        with self.blocks:
            title = f"<h1>FramePack with MagCache</h1><p>{subtitle}</p>"
            gr.HTML(title, elem_classes="mc-title")
            self.form = Form()
            self._connect(self.form)

    def launch(self, address: str, port: int, *, open_browser: bool = False) -> None:
        """Serves the page, until `blocks.close()` or the end of the process.

        Raises:
            OSError: The port is in use.
        """
        theme = gr.themes.Default(
            primary_hue="indigo", neutral_hue="slate", font=_FONT, font_mono=["monospace"]
        )
        self.blocks.queue(default_concurrency_limit=1).launch(
            server_name=address,
            server_port=port,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            theme=theme,
            css_paths=_STYLE,
            max_file_size=LARGEST_FILE,
            footer_links=["gradio", "settings"],
            ssr_mode=False,
            quiet=True,
        )

    def _connect(self, form: Form) -> None:
        inputs = list(form.inputs.values())
        # Values come as they are: a bad image gets our message, not one of Gradio's.
        plain: dict[str, Any] = {
            "preprocess": False, "show_progress": "hidden", "api_visibility": "private"
        }  # fmt: skip
        shown = [form.status, form.problem, form.start, form.end, form.calibrate, form.strips]
        shown += [form.video, form.beside, form.picture, form.report]
        form.start.click(self._generate, inputs, shown, concurrency_id="model", **plain)
        form.calibrate.click(self._calibrate, inputs, shown, concurrency_id="model", **plain)
        form.end.click(self._cancel, outputs=form.end, queue=False, **plain)
        form.image.upload(
            self._check_image, form.image, [form.image, form.problem], queue=False, **plain
        )
        telling = ("seconds", "steps", "use_magcache", "mode", "threshold", "max_skip")
        telling += ("retention", "speedup", "model")
        gr.on(
            [form.inputs[name].change for name in telling],
            self._replan,
            inputs,
            [form.plan, form.how, form.by_threshold, form.by_speedup, form.calibrate],
            queue=False,
            trigger_mode="always_last",
            **plain,
        )
        self.blocks.unload(self._left)

    def _settings(self, values: tuple[Any, ...]) -> Settings:
        given = dict(zip(self.form.inputs, values, strict=True))
        given["image"] = Path(given["image"]["path"]) if given["image"] else None
        for name in ("prompt", "negative_prompt", "folder"):  # empty, they come as None
            given[name] = (given[name] or "").strip()
        return Settings(**given)

    def _replan(self, *values: Any) -> Update:
        form = self.form
        try:
            settings = self._settings(values)
        except Problem as problem:
            return {form.plan: render.problem(str(problem))}
        return {
            form.plan: render.plan(settings),
            form.how: gr.update(visible=settings.use_magcache),
            form.by_threshold: gr.update(visible=settings.mode == MODES[0]),
            form.by_speedup: gr.update(visible=settings.mode == MODES[1]),
            form.calibrate: _shown(settings.aims),
        }

    def _check_image(self, image: dict[str, Any] | None) -> Update:
        try:
            if image:
                read_image(Path(image["path"]))
        except Problem as problem:
            return {self.form.image: None, **self._complaint(str(problem))}
        return self._complaint("")

    def _generate(self, request: gr.Request, *values: Any) -> Iterator[Update]:
        yield from _paced(self._run(self._engine.generate, request, values))

    def _calibrate(self, request: gr.Request, *values: Any) -> Iterator[Update]:
        def work(settings: Settings, job: Job, _: Path) -> Iterator[Progress | Result]:
            return self._engine.calibrate(settings, job)

        yield from _paced(self._run(work, request, values))

    def _run(self, work: Work, request: gr.Request, values: tuple[Any, ...]) -> Iterator[Update]:
        """What is shown from the click to the end of a run; the last update is complete."""
        form, session = self.form, str(request.session_hash)
        job = self._jobs[session] = Job()
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            end: Update = {}
            try:
                settings = self._settings(values)
                yield self._begun()
                strips = 0
                for told in work(settings, job, Path(folder)):
                    if isinstance(told, Result):
                        end = self._outcome(told)
                        continue
                    update: Update = {form.status: render.progress(told)}
                    if len(told.strips) > strips:
                        strips = len(told.strips)
                        update[form.strips] = _shown(True, render.strips(told.strips))
                    yield update
            except Cancelled:
                text = "Nothing was kept. The settings are as they were."
                end = {form.status: render.note("Cancelled", text)}
            except Problem as problem:
                end = {form.status: render.IDLE, **self._complaint(str(problem))}
            except Exception as error:
                log.exception("MagCache: a run of the app failed")
                text = f"{type(error).__name__}: {error}. The console says more."
                text = f"Something went wrong. {text}"
                end = {form.status: render.IDLE, **self._complaint(text)}
            finally:
                del self._jobs[session]
            yield {**end, **self._buttons(running=False)}

    def _begun(self) -> Update:
        form = self.form
        results = (form.video, form.strips, form.beside, form.picture, form.report)
        cleared = {component: gr.update(value=None, visible=HIDDEN) for component in results}
        return {**self._complaint(""), **cleared, **self._buttons(running=True)}

    def _buttons(self, *, running: bool) -> Update:
        return {
            self.form.start: gr.update(interactive=not running),
            self.form.calibrate: gr.update(interactive=not running),
            self.form.end: gr.update(interactive=running, value="Cancel"),
        }

    def _outcome(self, done: Result) -> Update:
        form = self.form
        if done.measured:
            text = f"Stored: {done.measured}. Target speed-up uses it from the first section on."
            return {form.status: render.note("Calibrated", text), form.strips: _shown(False)}
        parts = {
            form.video: done.video,
            form.beside: done.beside,
            form.picture: done.picture,
            form.report: render.report(done),
        }
        shown = {component: _shown(True, value) for component, value in parts.items() if value}
        return {form.status: render.result(done), form.strips: _shown(False), **shown}

    def _complaint(self, message: str) -> Update:
        return {self.form.problem: _shown(bool(message), render.problem(message))}

    def _cancel(self, request: gr.Request) -> Any:
        if job := self._jobs.get(str(request.session_hash)):
            job.cancelled.set()
        return gr.update(interactive=False, value="Cancelling…")

    def _left(self, request: gr.Request) -> None:
        """Nobody will see the result."""
        if job := self._jobs.get(str(request.session_hash)):
            job.cancelled.set()


def _shown(on: bool, *value: Any) -> Any:
    given = {"value": value[0]} if value else {}
    return gr.update(visible=on or HIDDEN, **given)


def _paced(updates: Iterator[Update]) -> Iterator[Update]:
    """The same, but no two closer together than the browser can follow."""
    due = 0.0
    for update in updates:
        time.sleep(max(due - time.monotonic(), 0))
        yield update
        due = time.monotonic() + _PACE
