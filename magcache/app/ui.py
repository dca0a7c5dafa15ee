"""The page, and its reactions to the user."""

import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from . import render
from .address import own_names
from .engine import Engine, Result
from .files import LARGEST_FILE, read_image
from .form import HIDDEN, Form
from .known_hosts import KnownHosts
from .progress import Cancelled, Progress
from .settings import Problem, Settings, clock

log = logging.getLogger("magcache")
_STYLE = Path(__file__).with_name("style.css")
_FONT = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "sans-serif"]
USER = "magcache"  # the user name of visitors
_PATIENCE = 5.0  # seconds to wait for a run to end
_NEWEST = 6  # newest sections whose frames are shown

_TITLE = """# Videos with MagCache
It predicts some sampling steps instead of computing them, so videos are ready sooner."""

Update = dict[Any, Any]


@dataclass
class _Job:
    """The current run of a session.

    Attributes:
        told: Its progress.
        shown: Number of its pictures on the page.
        cancelled: Whether to end it, after the current evaluation.
    """

    told: Progress = field(default_factory=lambda: Progress(""))
    shown: int = 0
    cancelled: bool = False

    def tell(self, now: Progress) -> None:
        """Lets Gradio draw the progress of the calling run."""
        if self.cancelled:
            raise Cancelled
        self.told = now
        stage = now.stage if now.left is None else f"{now.stage}, about {clock(now.left)} left"
        gr.Progress()((now.done, now.total) if now.total else None, stage, unit="steps")


class Page:
    """The app in the browser.

    Args:
        engine: Generates the videos.
        folder: Folder for the videos.
        start: Initial settings.
    """

    def __init__(self, engine: Engine, folder: Path, start: Settings | None = None) -> None:
        self._engine = engine
        self._folder = folder
        self._jobs: dict[str, _Job] = {}  # the current run of each session
        # Gradio deletes its files after a day; the folder itself is deleted when the app ends.
        self.blocks = gr.Blocks(
            title="MagCache", analytics_enabled=False, delete_cache=(3600, 86400)
        )
        with self.blocks:
            gr.Markdown(_TITLE)
            self.form = Form(start or Settings())
            self._connect(self.form)

    def launch(
        self, address: str, port: int, *, password: str | None = None, open_browser: bool = False
    ) -> None:
        """Serves the page until `close()` or the end of the process.

        Args:
            address, port: The address, checked by `check_address`.
            password: Password for visitors, who sign in as `USER`; None needs no sign-in.
            open_browser: Open the page in a browser on this computer.

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
            auth=(USER, password) if password else None,
            app_kwargs={"middleware": [Middleware(KnownHosts, names=own_names(address))]},
            prevent_thread_lock=True,
            theme=theme,
            css_paths=_STYLE,
            max_file_size=LARGEST_FILE,
            footer_links=["gradio", "settings"],
            ssr_mode=False,
            quiet=True,
        )

    def close(self) -> None:
        """Ends all runs after their current evaluation, and stops serving."""
        for job in list(self._jobs.values()):
            job.cancelled = True
        latest = time.monotonic() + _PATIENCE
        while self._jobs and time.monotonic() < latest:
            time.sleep(0.05)
        self.blocks.close(verbose=False)

    def _connect(self, form: Form) -> None:
        inputs = list(form.inputs.values())
        # No preprocessing, so that a bad image gets our own message and not Gradio's.
        plain: dict[str, Any] = {
            "preprocess": False, "show_progress": "hidden", "api_visibility": "private"
        }  # fmt: skip
        shown = [form.status, form.problem, form.start, form.end, form.clock]
        shown += [form.symbols, form.strips, form.video, form.beside, form.picture, form.report]
        drawn = {**plain, "show_progress": "full", "show_progress_on": form.status}
        form.start.click(self._generate, inputs, shown, concurrency_id="model", **drawn)
        form.clock.tick(self._watched, outputs=[form.symbols, form.strips], queue=False, **plain)
        form.end.click(self._cancel, outputs=form.end, queue=False, **plain)
        form.image.upload(
            self._check_image, form.image, [form.image, form.problem], queue=False, **plain
        )
        parts = [form.prompt, form.words.dataset, form.image, form.seconds]
        parts += [form.by_framepack, form.by_rule]
        form.model.change(form.chosen, form.model, parts, queue=False, **plain)
        telling = ("seconds", "steps", "speedup", "rule", "threshold", "max_skip", "retention")
        telling += ("model",)
        gr.on(
            [form.inputs[name].change for name in telling],
            self._replan,
            inputs,
            form.plan,
            queue=False,
            trigger_mode="always_last",
            **plain,
        )
        self.blocks.unload(self._left)

    def _settings(self, values: tuple[Any, ...]) -> Settings:
        given = dict(zip(self.form.inputs, values, strict=True))
        given["image"] = Path(given["image"]["path"]) if given["image"] else None
        for name in ("prompt", "negative_prompt", "folder"):  # None if empty
            given[name] = (given[name] or "").strip()
        return Settings(**given)

    def _replan(self, *values: Any) -> str:
        try:
            return render.plan(self._settings(values))
        except Problem as problem:
            return render.problem(str(problem))

    def _check_image(self, image: dict[str, Any] | None) -> Update:
        try:
            if image:
                read_image(Path(image["path"]))
        except Problem as problem:
            return {self.form.image: None, **self._complaint(str(problem))}
        return self._complaint("")

    def _generate(self, request: gr.Request, *values: Any) -> Iterator[Update]:
        """Generates a video; yields the page's updates at the start and at the end."""
        form, session = self.form, str(request.session_hash)
        job = self._jobs[session] = _Job()
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            end: Update = {form.status: render.IDLE}
            try:
                yield self._begun()
                end = self._outcome(
                    self._engine.generate(self._settings(values), Path(folder), job.tell)
                )
            except Cancelled:
                text = "No video was saved. Your settings are unchanged."
                end = {form.status: render.note("Cancelled", text)}
            except Problem as problem:
                end |= self._complaint(str(problem))
            except Exception as error:
                log.exception("MagCache: a run of the app failed")
                text = f"{type(error).__name__}: {error}. The console says more."
                end |= self._complaint(f"Something went wrong. {text}")
            finally:
                del self._jobs[session]
            yield {**end, **self._running(False)}

    def _watched(self, request: gr.Request) -> Any:
        """The schedule and the pictures of the current run."""
        job = self._jobs.get(str(request.session_hash))
        if not job or not job.told.schedules:
            return gr.skip()
        strips = gr.skip()
        if len(job.told.strips) > job.shown:
            job.shown = len(job.told.strips)
            named = [(strip, f"Section {n}") for n, strip in enumerate(job.told.strips, 1)]
            strips = _shown(True, named[: -_NEWEST - 1 : -1])
        return _shown(True, render.schedule(job.told.schedules)), strips

    def _begun(self) -> Update:
        form = self.form
        results = (form.video, form.symbols, form.strips, form.beside, form.picture, form.report)
        cleared = {component: gr.update(value=None, visible=HIDDEN) for component in results}
        return {form.status: "", **self._complaint(""), **cleared, **self._running(True)}

    def _running(self, on: bool) -> Update:
        return {
            self.form.start: gr.update(interactive=not on),
            self.form.end: gr.update(interactive=on, value="Cancel"),
            self.form.clock: gr.Timer(active=on),
        }

    def _outcome(self, done: Result) -> Update:
        form = self.form
        parts = {
            form.video: done.video,
            form.beside: done.beside,
            form.picture: done.picture,
            form.symbols: render.schedule(done.report.schedule.split()),
            form.report: render.report(done),
        }
        shown = {component: _shown(True, value) for component, value in parts.items() if value}
        return {form.status: render.result(done), form.strips: _shown(False), **shown}

    def _complaint(self, message: str) -> Update:
        return {self.form.problem: _shown(bool(message), render.problem(message))}

    def _cancel(self, request: gr.Request) -> Any:
        self._left(request)
        return gr.update(interactive=False, value="Cancelling…")

    def _left(self, request: gr.Request) -> None:
        """Ends the run of a page that was closed or cancelled."""
        if job := self._jobs.get(str(request.session_hash)):
            job.cancelled = True


def _shown(on: bool, *value: Any) -> Any:
    given = {"value": value[0]} if value else {}
    return gr.update(visible=on or HIDDEN, **given)
