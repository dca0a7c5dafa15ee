"""The findings as text and as Markdown."""

from collections import Counter
from collections.abc import Iterator
from datetime import date

from .advice import size
from .findings import FAILS, UNCACHED, UNKNOWN, WORKS, Family, Findings, Problem

_HEAD = ("family", "class", "result", "curve", "skipped", "skip error")
_SAID = {WORKS: "work", UNCACHED: "run uncached", FAILS: "fail", UNKNOWN: "could not be checked"}


def text(findings: Findings, problems: list[Problem]) -> str:
    """For a terminal: the installation, the table, and what to do."""
    lines = [*_facts(findings)]
    if findings.families:
        lines.append("")
        rows = [_HEAD, *(_cells(family) for family in findings.families)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines += ["", f"{_summary(findings)}, in {findings.seconds:.0f} s."]
        lines += [f"  {f.name}: {f.reason}" for f in findings.families if f.result == UNCACHED]
    for problem in problems:
        lines += ["", f"{problem.kind.upper()}: {problem.what}"]
        lines += [f"  -> {problem.advice}"] if problem.advice else []
    if findings.log:
        lines += ["", "ComfyUI's last output:", *(f"  {line}" for line in findings.log)]
    return "\n".join(lines)


def markdown(findings: Findings) -> str:
    """A section of docs/compatibility.md, without packs and machine."""
    versions = findings.versions
    where = findings.memory.get("vram", {"device": "CPU"})["device"]
    lines = [
        f"## ComfyUI {versions['ComfyUI']}",
        "",
        f"{date.today()}: MagCache {findings.pack['version']}, torch {versions['torch']}, Python "
        f"{versions['Python']}, on {where}. {_summary(findings)}.",
        "",
        f"| {' | '.join(_HEAD)} |",
        "|---|---|---|---|--:|--:|",
    ]
    for family in findings.families:
        name, network, *cells = _cells(family)
        lines.append(f"| {name} | `{network}` | {' | '.join(cells)} |")
    reasons = [f"- {f.name} {f.result}: {f.reason}" for f in findings.families if f.reason]
    return "\n".join([*lines, *([""] if reasons else []), *reasons])


def _facts(findings: Findings) -> Iterator[str]:
    versions, pack = findings.versions, findings.pack
    yield f"ComfyUI {versions.get('ComfyUI', 'of unknown version')} in {findings.comfyui}"
    python, torch = versions.get("Python", "?"), versions.get("torch", "?")
    yield f"Python {python} with torch {torch}: {findings.python} ({findings.python_from})"
    if pack:
        where = f"custom_nodes/{pack['name']}" if pack["name"] else "this command's own"
        yield f"MagCache {pack['version']}, {where}"
    if findings.custom_nodes:
        loaded = sum(each["loaded"] for each in findings.custom_nodes)
        yield f"custom nodes: {loaded} of {len(findings.custom_nodes)} loaded"
    names = {"vram": "GPU memory", "ram": "RAM", "disk": "disk"}
    free = [
        f"{what} {size(findings.memory[name]['free'])} of {size(findings.memory[name]['whole'])}"
        f"{'' if name == 'ram' else ' (' + findings.memory[name]['device'] + ')'}"
        for name, what in names.items()
        if name in findings.memory
    ]
    yield "free: " + ", ".join(free)


def _cells(family: Family) -> tuple[str, ...]:
    skipped = f"{family.skipped} of {family.evaluations}" if family.evaluations else ""
    error = "" if family.error is None else f"{family.error:.0e}"
    return family.name, family.network, family.result, family.curve, skipped, error


def _summary(findings: Findings) -> str:
    counts = Counter(family.result for family in findings.families)
    parts = [f"{counts[result]} {said}" for result, said in _SAID.items() if counts[result]]
    return f"Of {len(findings.families)} models tried {', '.join(parts)}"
