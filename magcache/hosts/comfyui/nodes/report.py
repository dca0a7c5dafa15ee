"""MagCache Report: shows what MagCache did in a model's last run, as a picture and as text."""

import re
from typing import Any

from ....pictures import as_batch, draw_text
from ....report import Report
from .. import host
from ..settings import settings_on
from .widgets import HIDDEN, entry


class Anything(str):
    """The type of an input or output that accepts any connection, since it equals every type."""

    def __ne__(self, other: object) -> bool:
        return False

    __eq__ = str.__eq__
    __hash__ = str.__hash__


ANY = Anything("*")


class MagCacheReport:
    """Runs after the sampler, and shows what the model's MagCache node has recorded.

    Only a new run changes what it shows, and that also changes `after`. So ComfyUI's cache is
    right about it; an IS_CHANGED would needlessly rerun the nodes behind it.
    """

    CATEGORY = "MagCache"
    FUNCTION = "report"
    OUTPUT_NODE = True
    RETURN_TYPES = ("IMAGE", "STRING", ANY)
    RETURN_NAMES = ("picture", "text", "after")
    OUTPUT_TOOLTIPS = (
        "The curve and the schedule, with the time and expected error of each evaluation.",
        "The settings, what was computed or skipped and why, speed-up, memory, warnings.",
        "Passes `after` on unchanged. Nodes connected here run after the report.",
    )
    DESCRIPTION = (
        "Shows what MagCache did in the last run of a model: what was computed, what was skipped "
        "and why, and how much faster it was."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": entry(
                    "MODEL", "The MODEL output of the MagCache node, which goes to the sampler."
                ),
                "after": entry(
                    ANY,
                    "The sampler's result, or anything made from it, so that the report runs "
                    "after the sampler.",
                ),
            },
            "hidden": HIDDEN,
        }

    def report(self, model: Any, after: Any, node_id: str | None = None) -> dict[str, Any]:
        host.check_model(model)
        text, drawn = _shown(_last(model))
        picture = as_batch(drawn)
        host.show(_narrow(text), node_id)
        ui = {**host.preview(picture), "text": [text]}
        return {"ui": ui, "result": (picture, text, after)}


def _narrow(text: str) -> str:
    """A text for the node itself, which has no room for columns and tables."""
    head, table, _ = text.partition("\n\n|")
    if table:
        return f"The full text is in the output `text`, and in the file the log names.\n\n{head}"
    return re.sub(r"(?m)^  (\w+) +", r"\1: ", text)


def _shown(found: Any) -> tuple[str, Any]:
    """Text and picture."""
    if isinstance(found, tuple):
        return found
    text = str(found)
    headline, _, advice = text.partition("\n")
    return text, draw_text(headline, advice) if isinstance(found, str) else found.picture()


def _last(model: Any) -> Report | str | tuple[str, Any]:
    """The report of a model's last run, a measurement, or why there is none and what to do."""
    settings = settings_on(model)
    watch = settings.watch if settings else None
    if watch is None:
        return (
            "MagCache is not on this model\nConnect the MODEL output of a MagCache node. If it is "
            "connected: a speed-up of 1 changes nothing, and a node that cannot skip anything of "
            "this model says why."
        )
    if watch.measured:
        return watch.measured
    if watch.last is None:
        return (
            "MagCache: no run yet\nThis model has not been sampled since its MagCache node last "
            "ran. Connect `after` to the result of the sampler that uses it. If ComfyUI took that "
            "result from its cache, change the seed."
        )
    if watch.ended == 1:
        return watch.last
    runs = f"{watch.ended} since the MagCache node last ran; this is the last one"
    return watch.last.telling("runs", runs)
