"""Opens workflows in ComfyUI's page in a headless browser, runs them and takes pictures."""

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import ConsoleMessage, Page, TimeoutError, sync_playwright

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Graph.CanvasMenu": False,
    "Comfy.UseNewMenu": "Top",
    "Comfy.Workflow.ShowMissingModelsWarning": False,
}
READY = """() => !!(
    window.app?.extensionManager && window.LiteGraph?.registered_node_types.KSampler
    && window.LiteGraph.registered_node_types.MarkdownNote && app.graph
)"""
ASKS_THE_NETWORK = (
    "Failed to load resource", "huggingface.co", "Error fetching file size", "api.comfy.org",
)  # fmt: skip
Json = dict[str, Any]


def program() -> str | None:
    """The path of a browser on this machine, if there is one."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Editor:
    """ComfyUI's page.

    Attributes:
        errors: Errors that the page has logged since a workflow was opened.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("console", self._logged)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, workflow: Json) -> None:
        """Opens a workflow in the same way as the page's menu."""
        self.errors.clear()
        self.page.evaluate(
            "async (it) => { await app.loadGraphData(it, true, true, null) }", workflow
        )
        self.page.wait_for_timeout(300)

    def search(self, text: str) -> list[str]:
        """What the node search lists for a text.

        On a busy machine the page may miss the double click or the first letters: then once more.
        """
        options = self.page.locator("[role=option]")
        for within in (10_000, 20_000, 40_000):
            self.page.mouse.dblclick(1500, 900)
            self.page.wait_for_timeout(800)
            self.page.keyboard.type(text)
            self.page.wait_for_timeout(1200)
            with suppress(TimeoutError):
                options.first.wait_for(timeout=within)
                break
            self.page.keyboard.press("Escape")
        found = options.all_inner_texts()
        self.page.keyboard.press("Escape")
        return found

    def prompt(self) -> Json:
        """The prompt it would queue: the graph in ComfyUI's API format."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def run(self, within: int) -> None:
        """Runs the workflow in the same way as the page's button, and waits for its pictures.

        Args:
            within: Time limit in milliseconds.

        Raises:
            RuntimeError: The workflow failed.
        """
        ended = """(within) => new Promise((resolve) => {
            for (const type of ["execution_success", "execution_error"])
                app.api.addEventListener(type, () => resolve(type), { once: true });
            setTimeout(() => resolve(`not done within ${within} ms`), within);
            app.queuePrompt(0, 1);
        })"""
        with self.page.expect_response(lambda it: it.url.endswith("/prompt")) as answer:
            how = self.page.evaluate(ended, within)
        if how != "execution_success":
            raise RuntimeError(f"the workflow failed: {how}, {answer.value.text()}")
        self.page.wait_for_timeout(1500)

    def nodes(self) -> list[Json]:
        """All nodes on the page: id, type, box, whether the type is known, invalid widgets."""
        return self.page.evaluate(
            """() => app.graph.nodes.map(node => ({
                id: node.id, type: node.type, box: [...node.getBounding()],
                known: node.type in LiteGraph.registered_node_types && !node.has_errors,
                invalid: (node.widgets ?? []).filter(
                    w => w.type === "combo" && !w.options.values.includes?.(w.value)
                ).map(w => w.name),
            }))"""
        )

    def shown(self, kind: str) -> list[Image.Image]:
        """The pictures that the nodes of a type show after a run, in order."""
        files = self.page.evaluate(
            """async (kind) => {
                const found = [];
                for (const { id } of app.graph.nodes.filter(node => node.type === kind))
                    for (const image of app.nodeOutputs[id].images) {
                        const asked = app.api.apiURL("/view?" + new URLSearchParams(image));
                        const answer = await fetch(asked);
                        found.push([...new Uint8Array(await answer.arrayBuffer())]);
                    }
                return found;
            }""",
            kind,
        )
        return [Image.open(io.BytesIO(bytes(data))) for data in files]

    def picture(self, path: Path, scale: float = 1.0) -> None:
        """Saves a picture of the whole graph as PNG."""
        left, top, right, bottom = _around([node["box"] for node in self.nodes()])
        width, height = int((right - left) * scale), int((bottom - top) * scale)
        side, head = 80, 130  # space for the page's own bars
        self.page.set_viewport_size({"width": width + side + 20, "height": height + head + 60})
        self.page.evaluate(
            """([x, y, side, head, scale]) => {
                const canvas = app.canvas.canvas.getBoundingClientRect();
                app.canvas.ds.scale = scale;
                app.canvas.ds.offset = [
                    (side - canvas.left) / scale - x, (head - canvas.top) / scale - y,
                ];
                app.canvas.setDirty(true, true);
            }""",
            [left, top, side, head, scale],
        )
        self.page.wait_for_timeout(700)
        self.page.screenshot(
            path=path, clip={"x": side, "y": head, "width": width, "height": height}
        )

    def _logged(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(part in message.text for part in ASKS_THE_NETWORK):
            self.errors.append(message.text)


@contextmanager
def editor(server: str, settings: Json | None = None) -> Iterator[Editor]:
    """Opens a server's page without a network and without the dialogs for new users.

    The server's own settings are not changed.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program())
        page = browser.new_page(viewport={"width": 1800, "height": 1000})
        page.route(lambda address: not address.startswith(server), lambda route: route.abort())
        chosen = json.dumps({**SETTINGS, **(settings or {})})
        page.route(
            "**/api/settings",
            lambda route: route.fulfill(body=chosen, content_type="application/json"),
        )
        page.goto(server)
        page.wait_for_function(READY, timeout=60_000)
        page.wait_for_timeout(1500)  # until the page has opened its default workflow
        yield Editor(page)
        browser.close()


def _around(boxes: list[list[float]], margin: int = 90) -> tuple[float, float, float, float]:
    return (
        min(x for x, *_ in boxes) - margin / 2,
        min(y for _, y, *_ in boxes) - margin,  # a group's title is above its nodes
        max(x + width for x, _, width, _ in boxes) + margin / 2,
        max(y + height for _, y, _, height in boxes) + margin / 2,
    )
