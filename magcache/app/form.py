"""The components of the page: what is asked, and what is shown."""

from dataclasses import fields
from typing import Any

import gradio as gr

from . import render
from .settings import KINDS, LONGEST, MODES, Settings

# Hidden, but mounted: a component that is mounted late misses what it is given meanwhile.
HIDDEN: Any = "hidden"
_OWN = Settings()


class Form:
    """Builds the components where it is made.

    Attributes:
        inputs: The components that are asked, by the names of `Settings`.
    """

    def __init__(self) -> None:
        with gr.Row(equal_height=False, elem_classes="mc-page"):
            with gr.Column(elem_classes="mc-ask"):
                self._ask()
            with gr.Column(elem_classes="mc-show"):
                self._show()
            with gr.Column(elem_classes="mc-set"):
                self._set_magcache()
                self._set_model()
                self._set_more()
        self.inputs = {field.name: getattr(self, field.name) for field in fields(Settings)}

    def _ask(self) -> None:
        self.image = gr.Image(
            label="Image", sources=["upload", "clipboard"], type="filepath", height=300
        )
        self.prompt = gr.Textbox(
            label="Prompt", lines=2, placeholder="She turns around slowly and laughs."
        )
        self.seconds = gr.Slider(
            1, LONGEST, _OWN.seconds, step=0.1, label="Total Video Length (Seconds)"
        )
        self.plan = gr.Markdown(render.plan(_OWN), container=True, elem_id="plan")
        with gr.Row():
            self.start = gr.Button("Generate", variant="primary", scale=3, elem_id="start")
            self.end = gr.Button("Cancel", interactive=False, scale=1, min_width=90, elem_id="end")
        self.problem = gr.HTML(visible=HIDDEN, elem_id="problem")

    def _show(self) -> None:
        video: dict[str, Any] = {"autoplay": True, "loop": True, "buttons": ["download"]}
        self.status = gr.Markdown(render.IDLE, container=True, min_height=110, elem_id="status")
        self.symbols = gr.Textbox(
            label="Evaluations of each section: # computed, . skipped",
            visible=HIDDEN,
            max_lines=8,
            elem_id="schedule",
        )
        self.strips = gr.Gallery(
            label="Frames of the finished sections",
            visible=HIDDEN,
            format="jpeg",
            interactive=False,
            height=300,
            object_fit="contain",
            elem_id="strips",
        )
        self.clock = gr.Timer(1, active=False)  # asks for the two while a run is under way
        self.video = gr.Video(label="Video", visible=HIDDEN, height=440, elem_id="video", **video)
        self.beside = gr.Video(show_label=False, visible=HIDDEN, elem_id="beside", **video)
        self.picture = gr.Image(
            show_label=False,
            visible=HIDDEN,
            buttons=["download", "fullscreen"],
            alt_text="Curve and schedule",
            elem_id="picture",
        )
        self.report = gr.Textbox(label="Report", visible=HIDDEN, elem_id="report")

    def _set_magcache(self) -> None:
        with gr.Accordion("MagCache", open=True), gr.Group():
            self.use_magcache = gr.Checkbox(_OWN.use_magcache, label="Use MagCache")
            with gr.Group() as self.how:
                self.mode = gr.Radio(list(MODES), value=_OWN.mode, label="Skip by")
                self._set_threshold()
                with gr.Group(visible=False) as self.by_speedup:
                    self.speedup = gr.Slider(
                        1, 4, _OWN.speedup, step=0.1, label="Target speed-up",
                        info="Predicts what the model returns.",
                    )  # fmt: skip
                self.compare = gr.Checkbox(
                    _OWN.compare, label="Compare with an uncached run",
                    info="Takes the full time again.",
                )  # fmt: skip

    def _set_threshold(self) -> None:
        with gr.Group() as self.by_threshold:
            self.threshold = gr.Slider(
                0, 1, _OWN.threshold, step=0.005, label="MagCache_thresh",
                info="Lower is nearer to the original, higher is faster.",
            )  # fmt: skip
            with gr.Row():
                self.max_skip = gr.Slider(
                    0, 10, _OWN.max_skip, step=1, label="MagCache_K",
                    info="Skipped in a row at most.", min_width=160,
                )  # fmt: skip
                self.retention = gr.Slider(
                    0, 1, _OWN.retention, step=0.01, label="MagCache retention ratio",
                    info="The first part, always computed.", min_width=160,
                )  # fmt: skip

    def _set_model(self) -> None:
        with gr.Accordion("Model", open=False), gr.Group():
            self.model = gr.Radio(
                list(KINDS), value=_OWN.model, label="Model",
                info="FramePack draws the end first, F1 goes forward.",
            )  # fmt: skip
            self.folder = gr.Textbox(
                label="Folder (optional)", placeholder="/models/framepack",
                info="With the model's weights on the computer that runs this app. "
                "Empty downloads them.",
            )  # fmt: skip
            self.preserved = gr.Slider(
                0, 128, _OWN.preserved, step=0.1, label="GPU Inference Preserved Memory (GB)",
                info="Larger means slower. Raise it if the memory runs out.",
            )  # fmt: skip

    def _set_more(self) -> None:
        with gr.Accordion("More settings", open=False), gr.Group():
            self.negative_prompt = gr.Textbox(
                label="Negative Prompt", info="Counts with a CFG Scale above 1 only."
            )
            self.cfg = gr.Slider(
                1, 32, _OWN.cfg, step=0.1, label="CFG Scale", info="Above 1 doubles the time."
            )
            self.guidance = gr.Slider(1, 32, _OWN.guidance, step=0.1, label="Distilled CFG Scale")
            with gr.Row():
                self.seed = gr.Number(
                    _OWN.seed, label="Seed", precision=0, minimum=0, min_width=160
                )
                self.steps = gr.Slider(1, 100, _OWN.steps, step=1, label="Steps", min_width=160)
            self.crf = gr.Slider(
                1, 51, _OWN.crf, step=1, label="MP4 Compression",
                info="Lower means better quality.",
            )  # fmt: skip
