"""The findings of `magcache doctor`, as the child process sends them and the command shows them."""

from dataclasses import asdict, dataclass, field
from typing import Any

WORKS, UNCACHED, FAILS, UNKNOWN = "works", "runs uncached", "fails", "not checked"
"""The possible results of a family."""
PROBLEM, UNCHECKED, NOTE = "problem", "not checked", "note"
"""Kinds of problems: something does not work, could not be tested, or is good to know."""


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        name: Its name in the tables of tiny models.
        network: Class name of its network.
        result: WORKS, UNCACHED, FAILS or UNKNOWN.
        reason: Why it does not work.
        curve: The curve that was followed: "published", "measured" here, or "".
        evaluations: Number of evaluations in the sampling.
        skipped: How many of them MagCache skipped.
        error: Relative error of a skipped evaluation with the true residual; None if nothing was
            skipped.
        known: Whether MagCache's own table says that it does not fit.
        suspects: The custom node that raised the error, otherwise those that replace functions of
            its model.
        seconds: Duration of the check.
    """

    name: str
    network: str
    result: str
    reason: str = ""
    curve: str = ""
    evaluations: int = 0
    skipped: int = 0
    error: float | None = None
    known: bool = False
    suspects: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Problem:
    """Something that the user should know.

    Attributes:
        what: What was found.
        advice: What to do about it.
        kind: PROBLEM, UNCHECKED or NOTE.
    """

    what: str
    advice: str
    kind: str = NOTE


@dataclass
class Findings:
    """All findings.

    Attributes:
        comfyui: ComfyUI's folder.
        python: The Python that runs it.
        python_from: How that was found.
        own_version: Version of the MagCache that the command belongs to.
        versions: Versions of Python, torch and ComfyUI.
        pack: The MagCache under test: "name", its folder among the custom nodes ("" for the
            command's own), and "version".
        custom_nodes: Each with "name", "path", "ours" (whether it is a MagCache), "loaded" and
            "reason".
        double_ids: Node ids of MagCache that others also register: "id", "packs", "in_force", and
            "versions" of those packs that are a MagCache.
        replaced: Functions of ComfyUI's models that others replace: "class", "function", "pack".
        memory: "ram", "vram" and "disk", each with "device", and "free" and "whole" in bytes.
        families: The result of each family.
        unfinished: Why not everything was checked; "" if it was.
        refused: Whether the check was refused for that reason, so ComfyUI is not to blame.
        log: The last lines of ComfyUI's output, if the check did not finish.
        seconds: Duration of the whole check.
    """

    comfyui: str
    python: str
    python_from: str
    own_version: str
    versions: dict[str, str] = field(default_factory=dict)
    pack: dict[str, str] = field(default_factory=dict)
    custom_nodes: list[dict[str, Any]] = field(default_factory=list)
    double_ids: list[dict[str, Any]] = field(default_factory=list)
    replaced: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, dict[str, Any]] = field(default_factory=dict)
    families: list[Family] = field(default_factory=list)
    unfinished: str = ""
    refused: bool = False
    log: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, event: dict[str, Any]) -> None:
        """Adds an event from the child process: "found" or "family"."""
        kind, data = event["event"], {k: v for k, v in event.items() if k != "event"}
        if kind == "family":
            self.families.append(Family(**data))
        elif kind == "found":
            for name, value in data.items():
                known = getattr(self, name)
                setattr(self, name, {**known, **value} if isinstance(value, dict) else value)

    def as_json(self, problems: list[Problem], status: int) -> dict[str, Any]:
        """The findings for scripts."""
        return {
            "status": status,
            **asdict(self),
            "problems": [asdict(problem) for problem in problems],
        }
