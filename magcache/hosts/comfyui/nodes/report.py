"""MagCache Report: what the last sampling of a model did, as a picture and as text."""

import re
from typing import Any

from ....pictures import as_batch, draw_text
from ....report import Report
from .. import host
from ..settings import settings_on
from .widgets import HIDDEN, entry


class Anything(str):
    """The type of an input or output that takes any connection: no other type differs from it."""

    def __ne__(self, other: object) -> bool:
        return False

    __eq__ = str.__eq__
    __hash__ = str.__hash__


ANY = Anything("*")


class MagCacheReport:
    """Runs behind the sampler, and asks the model what its MagCache node has seen.

    Nothing but a new sampling changes what it shows, and that changes `after`: so ComfyUI's
    cache is right about it, and there is no IS_CHANGED that would run what comes after it again.
    """

    CATEGORY = "MagCache"
    FUNCTION = "report"
    OUTPUT_NODE = True
    RETURN_TYPES = ("IMAGE", "STRING", ANY)
    RETURN_NAMES = ("picture", "text", "after")
    OUTPUT_TOOLTIPS = (
        "Curve and schedule, with time and expected error of each evaluation.",
        "Settings in force, what was computed and skipped and why, speed-up, memory, warnings.",
        "What came in as `after`: further nodes connected here run after the report.",
    )
    DESCRIPTION = (
        "Shows what MagCache did in the last sampling of a model: what was computed, what was "
        "skipped and why, and what that gained."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": entry(
                    "MODEL", "The MODEL that is sampled: the output of the MagCache node."
                ),
                "after": entry(
                    ANY,
                    "The sampler's result, or what was made of it, so that the report comes "
                    "after the sampling.",
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
    """A text as the node itself shows it, which has no room for columns and tables."""
    head, table, _ = text.partition("\n\n|")
    if table:
        return f"Table and all to send: output text, or the file that the log names.\n\n{head}"
    return re.sub(r"(?m)^  (\w+) +", r"\1: ", text)


def _shown(found: Any) -> tuple[str, Any]:
    """Text and picture."""
    if isinstance(found, tuple):
        return found
    text = str(found)
    headline, _, advice = text.partition("\n")
    return text, draw_text(headline, advice) if isinstance(found, str) else found.picture()


def _last(model: Any) -> Report | str | tuple[str, Any]:
    """The report of a model's last sampling, a measurement, or why there is none and what to do."""
    settings = settings_on(model)
    watch = settings.watch if settings else None
    if watch is None:
        return (
            "MagCache is not on this model\nConnect the MODEL output of a MagCache node. A model "
            "that MagCache does not fit, or a speed-up of 1, leaves the model as it is: then that "
            "node says so."
        )
    if watch.measured:
        return watch.measured
    if watch.last is None:
        return (
            "MagCache: no run yet\nThis model has not been sampled since its MagCache node last "
            "ran. Connect `after` to the result of the sampler that uses it; where ComfyUI took "
            "that result from its cache, change the seed."
        )
    if watch.ended == 1:
        return watch.last
    runs = f"{watch.ended} with the MagCache node as it is, this is the last"
    return watch.last.telling("runs", runs)
