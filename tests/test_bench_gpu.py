"""The GPU bench, on tiny models: what it counts, what must be equal, and the page it writes."""

import json
import math
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu.cases import CASES
from bench.gpu.measure import Bench, Figures, OutOfTime
from bench.gpu.page import page

DOCS = Path(__file__).parents[1] / "docs"
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}


@cache
def measured(name: str, device: str = "cpu") -> Figures:
    """A tiny case in twelve steps."""
    bench = Bench(torch.device(device), DTYPES[device], math.inf, lambda: None)
    bench.measure(replace(CASES[name](True), steps=12))
    (figures,) = bench.figures
    return figures


def calls(figures: Figures) -> dict[str, Any]:
    return {call.name: call for call in figures.calls}


def samplings(figures: Figures) -> dict[str, Any]:
    return {sampling.name: sampling for sampling in figures.samplings}


def test_a_branch_keeps_one_residual_to_reuse_and_two_to_predict_from() -> None:
    found = calls(measured("flux"))
    one = 64 * 256 * 4  # tokens, channels, float32
    assert found["plain"].held == 0
    assert found["skipped, reused"].held == one
    assert found["skipped, forecast"].held == 2 * 64 * 64 * 4  # outputs have 64 channels
    assert found["skipped, predicted from two"].held == 2 * one
    assert found["skipped, predicted from two, kept as fp8"].held == 2 * (one / 4 + 4)


@pytest.mark.parametrize(("name", "evaluations", "branches"), [("flux", 6, 1), ("wan", 3, 2)])
def test_as_many_calls_are_timed_as_a_run_has(name: str, evaluations: int, branches: int) -> None:
    """Of the computed evaluations with MagCache the first is left out."""
    found = calls(measured(name))
    assert found["plain"].count == evaluations * branches
    assert found["computed, reused"].count == (evaluations - 1) * branches
    assert found["skipped, reused"].count == evaluations * branches
    assert found["computed, forecast"].count == (evaluations - 1) * branches
    assert found["skipped, forecast"].count == evaluations * branches
    assert found["calibrating"].count == 8 * branches


@pytest.mark.parametrize("name", ["flux", "wan", "flux-offload"])
def test_what_must_be_equal_is(name: str) -> None:
    found = samplings(measured(name))
    apart = {key: s.difference for key, s in found.items() if s.difference is not None}
    assert "threshold 0" in apart and set(apart.values()) == {0.0}
    assert all(sampling.finite for sampling in found.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("name", ["flux", "wan", "flux-offload"])
def test_what_must_be_equal_is_on_a_gpu(name: str) -> None:
    found = samplings(measured(name, "cuda"))
    apart = {key: s.difference for key, s in found.items() if s.difference is not None}
    assert "threshold 0" in apart and set(apart.values()) == {0.0}
    assert all(sampling.finite and sampling.peak > 0 for sampling in found.values())


@pytest.mark.parametrize("name", ["planned for 2x", "forecast at 2x"])
def test_half_is_computed_where_twice_the_speed_is_asked(name: str) -> None:
    planned = samplings(measured("flux"))[name]
    assert (planned.evaluations, planned.computed) == (12, 6)
    assert planned.schedule.count("#") == 6


def test_no_measurement_begins_after_the_deadline() -> None:
    bench = Bench(torch.device("cpu"), torch.float32, -math.inf, lambda: None)
    with pytest.raises(OutOfTime):
        bench.measure(CASES["flux"](True))
    assert not bench.figures


def test_speed_ups_are_against_the_plain_sampling() -> None:
    case = asdict(measured("flux"))
    for sampling in case["samplings"]:
        sampling["seconds"] = 12.0 if sampling["name"] == "plain" else 6.0
    text = page(
        {
            "date": "2026-01-01", "machine": "a machine", "dtype": "float32",
            "cases": [case], "left_out": {"another model": "no time left"},
        }
    )  # fmt: skip
    assert "| planned for 2x | 6.00 s | 2.00x | 2.00x | 100.0 % |" in text
    assert "another model (no time left)." in text
    assert "| skipped, forecast from two outputs |" in text and "was not timed" not in text


def test_the_page_is_what_the_tool_makes_of_its_figures() -> None:
    figures = json.loads((DOCS / "gpu.json").read_text(encoding="utf-8"))
    assert page(figures) == (DOCS / "gpu.md").read_text(encoding="utf-8"), (
        "run python -m bench.gpu --page docs/gpu.json"
    )
