"""What `magcache doctor` finds, as the child sends it and as the command shows it."""

from dataclasses import asdict, dataclass, field
from typing import Any

WORKS, UNCACHED, FAILS, UNKNOWN = "works", "runs uncached", "fails", "not checked"
"""What can become of a family."""
PROBLEM, UNCHECKED, NOTE = "problem", "not checked", "note"
"""How bad it is: something does not work, something could not be tried, something to know."""


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        name: Its name in the tables of tiny models.
        network: Class name of its network.
        result: WORKS, UNCACHED, FAILS or UNKNOWN.
        reason: Why it does not work.
        curve: What was followed: "published", "measured" here, or "".
        evaluations: How many a sampling had.
        skipped: How many of these MagCache skipped.
        error: Relative difference of a skipped evaluation, given the true residual; None where
            nothing was skipped.
        known: Whether MagCache itself knows that it does not fit.
        suspects: The custom nodes that raised what it fails with, or else those that replace
            functions of its model.
        seconds: What the check took.
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
    """Something that a person should know of.

    Attributes:
        what: What it is.
        advice: What to do.
        kind: PROBLEM, UNCHECKED or NOTE.
    """

    what: str
    advice: str
    kind: str = NOTE


@dataclass
class Findings:
    """All that was found.

    Attributes:
        comfyui: ComfyUI's folder.
        python: What runs it.
        python_from: Where that was found.
        own_version: MagCache's version on the command's side.
        versions: Of Python, torch and ComfyUI.
        pack: MagCache that was checked: "name", its folder among the custom nodes, "" for the
            command's own; and "version".
        custom_nodes: Each with "name", "path", "ours" (whether it is a MagCache), "loaded" and
            "reason".
        double_ids: Node ids of MagCache that others register: "id", "packs", "in_force", and
            "versions" of those packs that are a MagCache.
        replaced: Functions of ComfyUI's models that others replace: "class", "function", "pack".
        memory: "ram", "vram" and "disk": each with "device", "free" and "whole" in bytes.
        families: What became of each.
        unfinished: Why not all was checked; "" if it was.
        refused: Whether that says it all, and ComfyUI is not to blame.
        log: The end of what ComfyUI logged, where it was not finished.
        seconds: What it took.
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
        """Takes in an event of the child: "found" or "family"."""
        kind, data = event["event"], {k: v for k, v in event.items() if k != "event"}
        if kind == "family":
            self.families.append(Family(**data))
        elif kind == "found":
            for name, value in data.items():
                known = getattr(self, name)
                setattr(self, name, {**known, **value} if isinstance(value, dict) else value)

    def as_json(self, problems: list[Problem], status: int) -> dict[str, Any]:
        """For scripts."""
        return {
            "status": status,
            **asdict(self),
            "problems": [asdict(problem) for problem in problems],
        }
