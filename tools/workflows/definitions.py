"""Reads the node definitions of running ComfyUI servers, and finds what all servers share."""

import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
Definition = dict[str, Any]
Version = tuple[int, ...]


def version(text: str) -> Version:
    """A version for comparison: 0.8.0 is below 0.33.0."""
    return tuple(int(part) for part in text.split(".")[:3])


@dataclass(frozen=True)
class Input:
    """An input of a node: a widget, or a socket.

    Attributes:
        name: Its name.
        type: "INT", "COMBO", "MODEL" and so on.
        default: Default of its widget, None for a socket.
        choices: The choices of a COMBO that every server has.
        has_control: Whether a "control after generate" widget follows it.
        uploads: Whether an upload button follows it.
        lines: Whether it is a multiline text.
        required: Whether it is a socket that must be connected.
    """

    name: str
    type: str
    default: Any = None
    choices: tuple[Any, ...] = ()
    has_control: bool = False
    uploads: bool = False
    lines: bool = False
    required: bool = True

    @property
    def is_widget(self) -> bool:
        return self.type in WIDGETS


class Definitions:
    """Node definitions of one or several versions, as from ComfyUI's /object_info."""

    def __init__(self, versions: Sequence[dict[str, Definition]]) -> None:
        self._versions = versions

    @classmethod
    def of_servers(cls, addresses: Sequence[str]) -> dict[Version, "Definitions"]:
        """Asks running servers, e.g. "http://127.0.0.1:8188".

        Returns:
            For each version of ComfyUI, the definitions of that version and all newer ones.

        Raises:
            OSError: A server does not answer.
        """
        versions = {}
        for address in addresses:
            told = _get(f"{address.rstrip('/')}/system_stats")["system"]["comfyui_version"]
            versions[version(told)] = _get(f"{address.rstrip('/')}/object_info")
        newest_first = sorted(versions, reverse=True)
        return {
            each: cls([versions[v] for v in newest_first if v >= each]) for each in newest_first
        }

    def inputs(self, kind: str) -> list[Input]:
        """The inputs that every version of a node has, in order.

        A version may have more inputs at the end, as long as they are optional.

        Raises:
            ValueError: A version lacks the node, or has its inputs in another order.
        """
        found = [self._inputs_of(version, kind) for version in self._versions]
        shared = found[0]
        for inputs in found[1:]:
            names = {each.name for each in inputs}
            shared = [each for each in shared if each.name in names]
        for inputs in found:
            head = inputs[: len(shared)]
            if [each.name for each in head] != [each.name for each in shared]:
                raise ValueError(f"{kind} has other inputs: {head} and {shared}")
        offered = [{each.name: each.choices for each in inputs} for inputs in found]
        return [
            Input(**{**vars(each), "choices": _in_all([other[each.name] for other in offered])})
            for each in shared
        ]

    def outputs(self, kind: str) -> list[tuple[str, str]]:
        """Names and types of the outputs that every version of a node has."""
        found = []
        for version in self._versions:
            definition = _of(version, kind)
            found.append(list(zip(definition["output_name"], definition["output"], strict=True)))
        return min(found, key=len)

    def _inputs_of(self, version: dict[str, Definition], kind: str) -> list[Input]:
        definition = _of(version, kind)["input"]
        return [
            _input(name, description, part == "required")
            for part in ("required", "optional")
            for name, description in definition.get(part, {}).items()
        ]


def _of(version: dict[str, Definition], kind: str) -> Definition:
    if kind not in version:
        raise ValueError(f"a server has no node {kind}: is the pack installed there?")
    return version[kind]


def _input(name: str, description: Sequence[Any], required: bool) -> Input:
    options = description[1] if len(description) > 1 else {}
    kind = options.get("widgetType", description[0])  # if a socket accepts several types
    choices = kind if isinstance(kind, list) else options.get("options", [])
    choices = tuple(each["key"] if isinstance(each, dict) else each for each in choices)
    return Input(
        name=name,
        type="COMBO" if isinstance(kind, list) else kind,
        default=options.get("default", choices[0] if choices else None),
        choices=choices,
        has_control=bool(options.get("control_after_generate")),
        uploads=bool(options.get("image_upload")),
        lines=bool(options.get("multiline")),
        required=required,
    )


def _in_all(lists: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(each for each in lists[0] if all(each in other for other in lists))


def _get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return json.load(answer)
