"""The page docs/gpu.md, made from the figures alone."""

import textwrap
from typing import Any

from tools.tables import table

Row = dict[str, Any]
_GIB, _MIB = 2**30, 2**20
_LABELS = {
    "computed, reused": "computed, one residual kept",
    "computed, predicted from two, kept": "computed, two residuals kept",
    "computed, predicted from two": "computed, two residuals kept",
    "computed, forecast": "computed, two outputs kept",
    "skipped, reused": "skipped, residual reused",
    "skipped, forecast": "skipped, forecast from two outputs",
}
INTRODUCTION = """\
# Speed and memory on a GPU

How much faster does a full-size model sample with MagCache on a GPU, and how much memory does that
take? This was measured in diffusers, by the published rule and with plans from a calibration.
{forecast}

`python -m bench.gpu` measures and generates this page from `gpu.json`; do not edit it by hand.

{measured}

- The models have their real size and random weights. Time and memory hardly depend on the weights;
  how close the result comes does, and [benchmarks.md](benchmarks.md) measures that on small models.
- Only the transformer and the scheduler run. Text encoders and the VAE take as long as ever, so a
  whole pipeline gains somewhat less.
"""
FORECAST = """\
The node MagCache forecasts: it keeps and predicts the model's output, and runs nothing of the model
in a skipped call."""
NO_FORECAST = "Forecasting, which the node MagCache does, was not timed here; it keeps far less."
READING = """\
## How to read the tables

A *call* is one run of the model for one branch; an *evaluation* is one call, or two with CFG. A
*residual* is what the model's blocks add to their input, which MagCache keeps (a forecast keeps
outputs instead).

- **One call** is computed (the whole model runs, and the residual or output is kept) or skipped
  (everything but the blocks runs; for a forecast, nothing). Times are medians, from an idle GPU to
  an idle GPU.
- **A whole sampling** is timed once, without waiting for the GPU between calls. In a schedule,
  `#` is computed and `.` skipped. *Ideal* is evaluations over computed evaluations, *reached*
  the share of it that was measured, *report* what MagCache's own report says.
- **Peak** is the most memory that PyTorch has allocated, weights included; *added* is the peak
  less that of the plain call or sampling.
- **Forecast at 2x** is what the node MagCache does. **Rule as published** has the published
  settings. **Planned for 2x** computes half of the evaluations and predicts the others from the
  last two, with a calibration. **Threshold 0** skips nothing. **Calibrating** computes everything
  and measures.
- **In host memory** is `store="offload"`, **as fp8** is `dtype=torch.float8_e4m3fn`.
"""


def page(figures: Row) -> str:
    """The whole page."""
    where = f"Measured on {figures['date']} in {figures['dtype']}: {figures['machine']}."
    measured = textwrap.fill(where, 100, break_on_hyphens=False)
    names = [call["name"] for case in figures["cases"] for call in case["calls"]]
    forecast = FORECAST if "skipped, forecast" in names else NO_FORECAST
    introduction = INTRODUCTION.format(measured=measured, forecast=forecast)
    text = [introduction, overview(figures["cases"]), READING]
    for case in figures["cases"]:
        text.append(f"## {case['name']}\n\n{_about(case)}\n\n{calls(case)}\n")
        if case["samplings"]:
            steps = case["samplings"][0]["evaluations"]
            text.append(f"{steps} steps:\n\n{samplings(case)}\n")
            text += _remarks(case)
    if figures["left_out"]:
        reasons = [f"{name} ({reason})" for name, reason in figures["left_out"].items()]
        text.append(f"Not measured, or not in full: {', '.join(reasons)}.\n")
    return "\n".join(text)


def overview(cases: list[Row]) -> str:
    """A table of the whole samplings of all cases, and the memory they add."""
    rows = [
        (case["name"], s["name"], *_speed(case, s), _more(s["peak"], case["samplings"][0]["peak"]))
        for case in cases
        for s in case["samplings"][1:]
        if s["computed"] < s["evaluations"] and ", kept" not in s["name"]
    ]
    head = ("model", "schedule", "speed-up", "ideal", "reached", "memory added")
    return f"## In short\n\n{_table(head, rows)}\n"


def calls(case: Row) -> str:
    """Single calls as a Markdown table."""
    plain = case["calls"][0]
    rows = [
        (
            _label(c["name"]),
            f"{1000 * c['seconds']:.1f} ms",
            f"{c['seconds'] / plain['seconds']:.4f}",
            _gib(c["peak"]),
            f"{c['peak'] / plain['peak']:.3f}" if plain["peak"] else "–",
            _more(c["peak"], plain["peak"]),
            f"{c['held'] / _MIB:.1f} MiB",
            c["count"],
        )
        for c in case["calls"]
    ]
    head = ("call", "time", "time / plain", "peak", "peak / plain", "added", "kept", "calls timed")
    return _table(head, rows)


def samplings(case: Row) -> str:
    """Whole samplings as a Markdown table."""
    rows = [
        (
            s["name"],
            f"{s['seconds']:.2f} s",
            *_speed(case, s),
            f"{s['told']:.2f}x",
            f"{s['computed']} of {s['evaluations']}",
            _gib(s["peak"]),
            f"{s['held'] / _MIB:.1f} MiB",
            f"`{s['schedule']}`",
        )
        for s in case["samplings"]
    ]
    head = (
        "sampling", "time", "speed-up", "ideal", "reached", "report", "computed", "peak",
        "kept", "schedule",
    )  # fmt: skip
    return _table(head, rows)


def _about(case: Row) -> str:
    parts = [
        f"{case['parameters'] / 1e9:.1f} billion parameters, {_gib(case['weights'])} of weights, "
        f"{'two calls' if case['branches'] == 2 else 'one call'} per evaluation."
    ]
    if case["prepare"] == "compile":
        parts.append(
            "`transformer.compile_repeated_blocks(fullgraph=True)`. The first call compiles and "
            f"took {case['first_call']:.0f} s."
        )
    if case["prepare"] == "offload":
        parts.append(
            "diffusers' group offloading keeps the blocks in host memory and copies each one\n"
            "to the GPU just before it runs (one block a group, with a CUDA stream). It\n"
            "prefetches the first block at every call, at skipped ones too."
        )
    if case["spread"]:
        parts.append(
            f"Plain calls timed first and last differ by {100 * case['spread']:.2f} %; smaller "
            "differences are noise."
        )
    return "\n".join(parts)


def _remarks(case: Row) -> list[str]:
    lines = []
    for s in case["samplings"]:
        if s["difference"] == 0:
            lines.append(f'- "{s["name"]}" gives exactly the result of "{s["equal_to"]}".')
        elif s["difference"] is not None:
            apart = f"{s['difference']:.2g}"
            lines.append(f'- "{s["name"]}" is off the result of "{s["equal_to"]}" by {apart}.')
        if not s["finite"]:
            lines.append(f'- The result of "{s["name"]}" holds NaN or Inf.')
    return ["\n".join(lines) + "\n"] if lines else []


def _label(name: str) -> str:
    for start, label in _LABELS.items():
        if name.startswith(start):
            return label + name.removeprefix(start)
    return name


def _speed(case: Row, sampling: Row) -> tuple[str, str, str]:
    speedup = case["samplings"][0]["seconds"] / sampling["seconds"]
    ideal = sampling["evaluations"] / sampling["computed"]
    return f"{speedup:.2f}x", f"{ideal:.2f}x", f"{100 * speedup / ideal:.1f} %"


def _more(peak: int, plain: int) -> str:
    return f"{(peak - plain) / _MIB:+.0f} MiB" if plain else "–"


def _gib(count: int) -> str:
    return f"{count / _GIB:.2f} GiB" if count else "–"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    return table(head, [map(str, row) for row in rows]).strip()
