"""Renders plans, schedules, results and problems as text and Markdown."""

import html
from collections.abc import Sequence

from .compare import NO_VMAF
from .engine import Result
from .settings import Settings, clock, seconds_of

IDLE = """**Your video will appear here.**

Press Generate."""


def plan(settings: Settings) -> str:
    """What a generation will do, shown before it starts."""
    planned, sections = settings.schedule(), settings.sections
    computed, each = planned.count("#"), " per section" if sections > 1 else ""
    video = f"{seconds_of(settings):.1f} s of video"
    video += f" in {sections} sections" if sections > 1 else ""
    if computed == settings.steps:
        return f"{video}; all {settings.steps} steps{each} computed"
    doing = f"{computed} of {settings.steps} steps{each} computed"
    faster = f"up to **{settings.steps / computed:.1f}×** faster"
    later = (
        "" if settings.by_rule else "\n\nThat is the first run; later ones may choose other steps."
    )
    return f"{video}; {doing}, {faster}\n\n`{planned}`{later}"


def problem(message: str) -> str:
    """A problem that the user can fix."""
    return f'<div role="alert">{html.escape(message)}</div>' if message else ""


def note(title: str, text: str) -> str:
    """A short note with a title."""
    return f"**{html.escape(title)}**\n\n{html.escape(text)}"


def schedule(schedules: Sequence[str]) -> str:
    """One line per section: its evaluations, and how many of them were computed."""
    rows = ((place, s, s.count("#"), len(s)) for place, s in enumerate(schedules, 1))
    return "\n".join(f"{place:3}  {s}  {n} of {length}" for place, s, n, length in rows)


def result(done: Result) -> str:
    """The result of a finished run."""
    report, settings = done.report, done.settings
    rows = [(clock(done.seconds), "time to generate")]
    if report.skipped:
        rows.append((f"{report.speedup:.2f}×", "faster sampling"))
        rows.append((f"{report.skipped} of {report.evaluations}", "steps skipped"))
    notes = [*filter(None, [done.note]), *report.warnings]
    if done.uncached_seconds is not None and done.quality is not None:
        ratio = done.uncached_seconds / done.seconds
        rows.append((clock(done.uncached_seconds), f"to generate uncached, {ratio:.2f}× as long"))
        rows += [(value, f"{name} to uncached") for name, value in done.quality.figures().items()]
        notes += [NO_VMAF] if done.quality.vmaf is None else []
    lines = [f"| Done | {seconds_of(settings):.1f} s, {settings.frames} frames |"]
    lines += ["|--:|:--|", *(f"| **{value}** | {name} |" for value, name in rows), ""]
    return "\n".join([*lines, *(f"- {html.escape(each)}" for each in notes)])


def report(done: Result) -> str:
    """The report as text."""
    return f"{done.report}\n  model      {done.placed}"
