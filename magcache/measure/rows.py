"""The figures of a measurement: one row per way of sampling, as a table and as text."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from ..images import psnr
from .store import Results, Sampled
from .ways import Way

_HEADINGS = ("", "computed", "seconds", "speed-up", "PSNR, dB", "SSIM", "FLIP", "peak memory")
_NONE, _EQUAL = "\u2013", "equal"
READ = (
    "Seconds: the median of the samples. PSNR, SSIM and FLIP: how far the pictures are from the "
    "uncached ones, mean / worst of the samples."
)


@dataclass(frozen=True)
class Row:
    """The figures of one way of sampling, over its finished samples.

    Attributes:
        name: See `Way.name`.
        samples: Number of samples.
        computed: Computed evaluations, such as "14 of 28", or steps.
        seconds: Median of the wall times, which ignores a single outlier; nan without a sample.
        speedup: Median time of the same samples uncached, divided by `seconds`.
        psnrs, ssims, flips: Each sample compared with the uncached one; empty for the uncached way.
        peak: Peak bytes on the device, 0 if unknown.
        failed: Why samples are missing, "" if none is.
    """

    name: str
    samples: int
    computed: str
    seconds: float
    speedup: float
    psnrs: Sequence[float]
    ssims: Sequence[float]
    flips: Sequence[float]
    peak: int
    failed: str = ""

    @property
    def cells(self) -> list[str]:
        """The cells of its row in the table."""
        if not self.samples:
            return [self.name, self.failed or _NONE, *[_NONE] * 6]
        return [
            f"{self.name} ({self.failed})" if self.failed else self.name,
            self.computed,
            _seconds(self.seconds),
            f"{self.speedup:.2f}x",
            _pair(self.psnrs, min, "{:.1f}"),
            _pair(self.ssims, min, "{:.3f}"),
            _pair(self.flips, max, "{:.3f}"),
            f"{self.peak / 2**30:.2f} GiB" if self.peak else _NONE,
        ]

    @property
    def short(self) -> str:
        """A short text for the picture and the node, such as "1.97x, PSNR 45.1 dB"."""
        if not self.samples:
            return self.failed or "not yet"
        if not self.psnrs:
            return f"{_seconds(self.seconds)} s"
        mean = _of_mean(self.psnrs)
        return f"{self.speedup:.2f}x, {mean if mean == _EQUAL else f'PSNR {mean} dB'}"


def rows_of(results: Results, ways: Sequence[Way], samples: int) -> list[Row]:
    """The figures of all ways; the first must be the uncached one."""
    return [_row(results, way, ways[0], samples) for way in ways]


def table(rows: Sequence[Row]) -> str:
    """A Markdown table with aligned columns, readable as plain text."""
    lines = [list(_HEADINGS), *(row.cells for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(_HEADINGS))]
    told = [_line([each.ljust(width) for each, width in zip(lines[0], widths, strict=True)])]
    told.append(f"|{'-' * (widths[0] + 2)}|{'|'.join('-' * (w + 1) + ':' for w in widths[1:])}|")
    for first, *rest in lines[1:]:
        right = [each.rjust(width) for each, width in zip(rest, widths[1:], strict=True)]
        told.append(_line([first.ljust(widths[0]), *right]))
    return "\n".join(told)


def _seconds(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _row(results: Results, way: Way, uncached: Way, samples: int) -> Row:
    keys = [(way.name, number) for number in range(samples)]
    found = [(key, results.sampled[key]) for key in keys if key in results.sampled]
    beside = [results.sampled[uncached.name, number] for (_, number), _ in found]
    taken = median(sampled.seconds for _, sampled in found) if found else math.nan
    far = [results.far[key] for key, _ in found if key in results.far]
    return Row(
        way.name,
        len(found),
        _computed([sampled for _, sampled in found], way),
        taken,
        median(full.seconds for full in beside) / taken if found else math.nan,
        [psnr(each.squared_error) for each in far],
        [each.ssim for each in far],
        [each.flip for each in far],
        max((sampled.peak for _, sampled in found), default=0),
        next((results.failed[key] for key in keys if key in results.failed), ""),
    )


def _computed(found: Sequence[Sampled], way: Way) -> str:
    """The computed evaluations, or their range if samples differ."""
    if way.speedup is None:
        return f"{way.steps} steps"
    counts = sorted({each.computed for each in found})
    if not counts:
        return _NONE
    told = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{told} of {max(each.evaluations for each in found)}"


def _pair(values: Sequence[float], worst: Callable[[Sequence[float]], float], form: str) -> str:
    if not values:
        return _NONE
    return f"{_of_mean(values, form)} / {_told(worst(values), form)}"


def _of_mean(values: Sequence[float], form: str = "{:.1f}") -> str:
    finite = [value for value in values if math.isfinite(value)]  # equal ones have infinite PSNR
    return _told(fmean(finite or values), form) if values else _NONE


def _told(value: float, form: str) -> str:
    return _EQUAL if math.isinf(value) else form.format(value)
