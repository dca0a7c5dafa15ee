"""What the app shows of plans, progress, results and problems, as HTML."""

import base64
import html
import io
import time
from collections.abc import Iterable, Sequence

from PIL import Image

from .compare import NO_VMAF
from .engine import Result
from .progress import Progress
from .settings import Settings, clock, seconds_of

_ROWS = 6  # sections that are drawn one by one; of a long video the earlier ones are summed up

IDLE = """<div class="mc-card mc-idle"><b>Your video will appear here.</b>
<span>Add an image, say what should happen, and press Generate.</span></div>"""


def plan(settings: Settings) -> str:
    """What a generation will do, before it is started."""
    schedule, sections = settings.schedule(), settings.sections
    computed = schedule.count("#")
    video = f"{seconds_of(settings.frames):.1f} s of video in {_count(sections, 'section')}"
    if computed == settings.steps:
        doing = f"all {settings.steps} evaluations per section computed"
    else:
        doing = f"{computed} of {settings.steps} evaluations per section computed"
        doing += f", up to <b>{settings.steps / computed:.1f}×</b> faster"
    cells = "" if settings.aims else _cells(schedule, settings.steps)
    return f'<div class="mc-plan"><div>{video}; {doing}</div>{cells}</div>'


def problem(message: str) -> str:
    """Something that the user can put right."""
    return f'<div class="mc-problem" role="alert">{html.escape(message)}</div>' if message else ""


def note(title: str, text: str) -> str:
    """A run that ended without a video, or without a problem."""
    return _card(f"<b>{html.escape(title)}</b>", "", f"<div>{html.escape(text)}</div>")


def progress(now: Progress) -> str:
    """A run that is under way."""
    elapsed = time.monotonic() - now.began
    times = clock(elapsed)
    if now.ends is not None:
        times += f" · about {clock(max(now.ends - time.monotonic(), 1))} left"
    bar = f'<div class="mc-bar"><i style="width:{100 * now.done:.1f}%"></i></div>'
    rows = _rows(now.schedules, now.steps)
    return _card(f"<b>{html.escape(now.stage)}</b>", times, bar + rows)


def strips(pictures: Sequence[Image.Image]) -> str:
    """The sections finished so far, a few frames each, the newest first."""
    if not pictures:
        return ""
    shown = []
    for place in range(len(pictures), max(len(pictures) - _ROWS, 0), -1):
        kept = io.BytesIO()
        pictures[place - 1].save(kept, "JPEG", quality=85)
        data = base64.b64encode(kept.getvalue()).decode()
        shown.append(
            f'<figure><img src="data:image/jpeg;base64,{data}" alt="Frames of section {place}">'
            f"<figcaption>Section {place}</figcaption></figure>"
        )
    return f'<div class="mc-strips">{"".join(shown)}</div>'


def result(done: Result) -> str:
    """A run that is complete."""
    report, settings = done.report, done.settings
    tiles = [(clock(done.seconds), "time to generate")]
    if report.skipped:
        tiles.append((f"{report.speedup:.2f}×", "faster sampling"))
        tiles.append((f"{report.skipped} of {report.evaluations}", "evaluations skipped"))
    if done.uncached_seconds is not None and done.quality is not None:
        ratio = done.uncached_seconds / done.seconds
        tiles.append((clock(done.uncached_seconds), f"uncached: {ratio:.2f}× as long"))
        tiles += [(value, f"{name} to uncached") for name, value in done.quality.figures().items()]
    body = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in tiles)
    notes = [NO_VMAF] if done.quality is not None and done.quality.vmaf is None else []
    notes += report.warnings
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in notes)
    lines = f'<ul class="mc-notes">{lines}</ul>' if lines else ""
    rows = _rows(tuple(report.schedule.split()), settings.steps)
    length = f"{seconds_of(settings.frames):.1f} s, {settings.frames} frames"
    return _card("<b>Done</b>", length, f'<div class="mc-tiles">{body}</div>{rows}{lines}')


def report(done: Result) -> str:
    """The report as text, folded."""
    text = html.escape(f"{done.report}\n  model      {done.placed}")
    return f'<details class="mc-card"><summary>Report</summary><pre>{text}</pre></details>'


def _card(title: str, aside: str, body: str) -> str:
    head = f'<div class="mc-head"><span>{title}</span><span class="mc-aside">{aside}</span></div>'
    return f'<div class="mc-card" role="status">{head}{body}</div>'


def _rows(schedules: Sequence[str], steps: int) -> str:
    """A line of cells a section, and how many of them were computed."""
    if not schedules:
        return ""
    hidden = max(len(schedules) - _ROWS, 0)
    rows = []
    if hidden:
        rows.append(f"<span>1–{hidden}</span><span>…</span>{_counts(schedules[:hidden])}")
    for place in range(hidden, len(schedules)):
        cells = _cells(schedules[place], steps)
        rows.append(f"<span>{place + 1}</span>{cells}{_counts(schedules[place : place + 1])}")
    computed = sum(s.count("#") for s in schedules)
    skipped = sum(s.count(".") for s in schedules)
    legend = (
        f'<div class="mc-legend"><span class="mc-cells"><i class="c"></i></span>{computed} computed'
        f'<span class="mc-cells"><i class="s"></i></span>{skipped} skipped</div>'
    )
    return f'<div class="mc-rows">{"".join(rows)}</div>{legend}'


def _cells(schedule: str, steps: int) -> str:
    cells = "".join('<i class="c"></i>' if s == "#" else '<i class="s"></i>' for s in schedule)
    cells += "<i></i>" * (steps - len(schedule))
    return f'<div class="mc-cells">{cells}</div>'


def _counts(schedules: Iterable[str]) -> str:
    joined = "".join(schedules)
    return f"<span>{joined.count('#')} of {len(joined)}</span>"


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
