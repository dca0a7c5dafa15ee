"""The components of the page: inputs and outputs."""

from dataclasses import fields
from typing import Any

import gradio as gr

from . import render
from .settings import EMOJI, KINDS, LONGEST, Settings

# Hidden, but mounted: a component that is mounted later misses earlier updates.
HIDDEN: Any = "hidden"
WORDS = ("green heart", "owl", "airplane arriving", "tiger face", "droplet")
"""Prompts that the emoji model draws well; the first one is set at the start."""
_PROMPT = "She turns around slowly and laughs."


class Form:
    """Builds the components when it is created.

    Args:
        start: The initial values.

    Attributes:
        inputs: The input components, by their names in `Settings`.
    """

    def __init__(self, start: Settings) -> None:
        self._own = start
        with gr.Row(equal_height=False, elem_classes="mc-page"):
            with gr.Column(elem_classes="mc-ask"):
                self._ask()
            with gr.Column(elem_classes="mc-show"):
                self._show()
            with gr.Column(elem_classes="mc-set"):
                self._set_more()
                self._set_framepack()
                self._set_rule()
        self.inputs = {field.name: getattr(self, field.name) for field in fields(Settings)}

    def chosen(self, model: str) -> dict[Any, Any]:
        """Shows the inputs of a model."""
        small = KINDS[model].small
        prompt: dict[str, Any] = {"placeholder": WORDS[0] if small else _PROMPT}
        return {
            self.prompt: gr.update(**prompt),
            self.words.dataset: gr.update(visible=small),
            **{
                part: gr.update(visible=HIDDEN if small else True)
                for part in (self.image, self.seconds, self.by_framepack, self.by_rule)
            },
        }

    def _ask(self) -> None:
        own, small = self._own, self._own.kind.small
        unless_small: Any = HIDDEN if small else True
        self.model = gr.Radio(
            list(KINDS), value=own.model, label="Model", elem_id="model",
            info=f"{EMOJI} is small and runs on any computer; FramePack needs an image and a GPU.",
        )  # fmt: skip
        self.image = gr.Image(
            label="Image", sources=["upload", "clipboard"], type="filepath", height=300,
            visible=unless_small,
        )  # fmt: skip
        self.prompt = gr.Textbox(
            own.prompt, label="Prompt", lines=2, placeholder=WORDS[0] if small else _PROMPT
        )
        self.words = gr.Examples(
            [[words] for words in WORDS], [self.prompt], label="Or one of these",
            elem_id="words", api_visibility="private", visible=small,
        )  # fmt: skip
        self.seconds = gr.Slider(
            1, LONGEST, own.seconds, step=0.1, label="Length (seconds)", visible=unless_small
        )
        with gr.Group():
            self.speedup = gr.Slider(
                1, 4, own.speedup, step=0.1, label="Speed-up",
                info="Higher is faster and further from the original. 1 computes everything.",
            )  # fmt: skip
            self.compare = gr.Checkbox(
                own.compare,
                label="Compare with an uncached run",
                info="Adds the time of a full run.",
            )
        self.plan = gr.Markdown(render.plan(own), container=True, elem_id="plan")
        with gr.Row():
            self.start = gr.Button("Generate", variant="primary", scale=3, elem_id="start")
            self.end = gr.Button("Cancel", interactive=False, scale=1, min_width=90, elem_id="end")
        self.problem = gr.HTML(visible=HIDDEN, elem_id="problem")

    def _show(self) -> None:
        video: dict[str, Any] = {"autoplay": True, "loop": True, "buttons": ["download"]}
        self.status = gr.Markdown(render.IDLE, container=True, min_height=110, elem_id="status")
        self.symbols = gr.Textbox(
            label="Steps: # computed, . skipped", visible=HIDDEN, max_lines=8, elem_id="schedule"
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
        self.clock = gr.Timer(1, active=False)  # updates the two during a run
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

    def _set_more(self) -> None:
        own = self._own
        with gr.Accordion("More settings", open=False), gr.Group():
            with gr.Row():
                self.seed = gr.Number(own.seed, label="Seed", precision=0, minimum=0, min_width=160)
                self.steps = gr.Slider(1, 100, own.steps, step=1, label="Steps", min_width=160)
            self.crf = gr.Slider(
                1,
                51,
                own.crf,
                step=1,
                label="Compression (MP4)",
                info="Lower looks better.",
            )

    def _set_framepack(self) -> None:
        own = self._own
        visible: Any = HIDDEN if own.kind.small else True
        with (
            gr.Accordion("FramePack", open=False, visible=visible) as self.by_framepack,
            gr.Group(),
        ):
            self.negative_prompt = gr.Textbox(
                label="Negative prompt", info="Only used with a CFG above 1."
            )
            with gr.Row():
                self.cfg = gr.Slider(
                    1, 32, own.cfg, step=0.1, label="CFG", info="Above 1 doubles the time.",
                    min_width=160,
                )  # fmt: skip
                self.guidance = gr.Slider(
                    1, 32, own.guidance, step=0.1, label="Distilled CFG", min_width=160
                )
            self.folder = gr.Textbox(
                label="Folder (optional)", placeholder="/models/framepack",
                info="A folder with the model's weights, on the computer that runs this app. "
                "If empty, they are downloaded.",
            )  # fmt: skip
            self.preserved = gr.Slider(
                0, 128, own.preserved, step=0.1, label="GPU memory to leave free (GB)",
                info="Higher is slower. Raise it if the GPU runs out of memory.",
            )  # fmt: skip

    def _set_rule(self) -> None:
        own = self._own
        visible: Any = HIDDEN if own.kind.small else True
        with (
            gr.Accordion("Published rule", open=False, visible=visible) as self.by_rule,
            gr.Group(),
        ):
            self.rule = gr.Checkbox(
                own.rule, label="Use the published rule", info="Replaces the speed-up."
            )
            self.threshold = gr.Slider(
                0, 1, own.threshold, step=0.005, label="Threshold",
                info="Higher is faster and further from the original.",
            )  # fmt: skip
            with gr.Row():
                self.max_skip = gr.Slider(
                    0, 10, own.max_skip, step=1, label="K",
                    info="How many may be skipped in a row.", min_width=160,
                )  # fmt: skip
                self.retention = gr.Slider(
                    0, 1, own.retention, step=0.01, label="Retention",
                    info="The first part, always computed.", min_width=160,
                )  # fmt: skip
