"""The published rule on ratios whose drift can be added up by hand."""

from typing import Any

import pytest

from magcache.decide import Reason, Rule, Window
from magcache.decide.rule import RuleState


def decisions(rule: Rule, ratios: list[float | None]) -> str:
    """`#` computed, `.` skipped, one branch."""
    state = RuleState(rule)
    reasons = [state.decide({"cond": ratio}) for ratio in ratios]
    return "".join("." if reason is Reason.SKIPPED else "#" for reason in reasons)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": -0.1}, "threshold must be 0 or more, got -0.1"),
        ({"threshold": float("nan")}, "threshold must be 0 or more, got nan"),
        ({"threshold": float("inf")}, "threshold must be 0 or more, got inf"),
        ({"max_skip": -1}, "max_skip must be a whole number, 0 or more, got -1"),
        ({"max_skip": 1.5}, "max_skip must be a whole number, 0 or more, got 1.5"),
        ({"retention": 1.1}, "retention must be between 0 and 1, got 1.1"),
        ({"retention": float("nan")}, "retention must be between 0 and 1, got nan"),
        ({"refresh": -0.1}, "refresh must be between 0 and 1, got -0.1"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rule(**{"threshold": 0.1, "max_skip": 2, "retention": 0.2, **settings})


@pytest.mark.parametrize(("start", "end"), [(5, 4), (-2, -3)])
def test_a_window_of_no_step_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match=f"end_step {end} lies before start_step {start}"):
        Window(start, end)


@pytest.mark.parametrize("max_skip", [float("inf"), float("nan")])
def test_max_skip_without_end_is_refused(max_skip: float) -> None:
    with pytest.raises(ValueError, match="max_skip must be a whole number"):
        Rule(0.1, max_skip, 0.2)  # type: ignore[arg-type]


def test_bounds_of_the_settings_are_allowed() -> None:
    Rule(0, 0, 0)
    Rule(1, 10, 1, Window(3, 3), refresh=1)
    Rule(0.1, 2, 0.2, Window(5, -10))  # empty or not: depends on the step count


def test_drift_adds_up_over_skipped_evaluations() -> None:
    # |1 - .5| = .5, then |1 - .25| = .75: together 1.25; both .5 and .75 are exact.
    assert decisions(Rule(0.5, 9, 0), [0.5, 0.5, 0.5, 0.5]) == ".#.#"
    assert decisions(Rule(1.25, 9, 0), [0.5, 0.5, 0.5, 0.5]) == "..#."


def test_drift_equal_to_the_threshold_is_skipped() -> None:
    assert decisions(Rule(0.25, 9, 0), [0.75]) == "."
    assert decisions(Rule(0.25, 9, 0), [1.25]) == "."
    assert decisions(Rule(0.2499, 9, 0), [0.75]) == "#"


def test_the_product_counts_and_not_the_single_ratio() -> None:
    # Products 2, 1, 2, 1: drift 1, 1, 2, 2.
    assert decisions(Rule(1, 9, 0), [2, 0.5, 2, 0.5]) == "..#."


def test_max_skip_bounds_what_is_skipped_in_a_row() -> None:
    assert decisions(Rule(1, 1, 0), [1.0] * 6) == ".#.#.#"
    assert decisions(Rule(1, 3, 0), [1.0] * 8) == "...#...#"


def test_a_computed_evaluation_restarts_product_error_and_count() -> None:
    state = RuleState(Rule(0.5, 2, 0))
    assert state.decide({"cond": 0.5}) is Reason.SKIPPED
    assert state.decide({"cond": 0.5}) is Reason.THRESHOLD
    # Had the product stayed 0.25 or the error 1.25, this would be computed.
    assert state.decide({"cond": 0.5}) is Reason.SKIPPED
    state.restart()
    assert [state.decide({"cond": 1.0}) for _ in range(3)] == [
        Reason.SKIPPED,
        Reason.SKIPPED,
        Reason.MAX_SKIP,
    ]


def test_one_objecting_branch_computes_all() -> None:
    state = RuleState(Rule(0.5, 9, 0))
    assert state.decide({"cond": 1.0, "uncond": 0.25}) is Reason.THRESHOLD
    assert state.decide({"cond": 0.25, "uncond": 1.0}) is Reason.THRESHOLD


def test_one_objecting_branch_restarts_all() -> None:
    state = RuleState(Rule(0.5, 9, 0))
    assert state.decide({"cond": 0.75, "uncond": 0.75}) is Reason.SKIPPED
    assert state.decide({"cond": 1.0, "uncond": 0.25}) is Reason.THRESHOLD
    # Unrestarted, cond's error would be .25 + .25 + |1 - .75·.5|, above .5.
    assert state.decide({"cond": 0.5, "uncond": 0.5}) is Reason.SKIPPED


def test_each_branch_adds_up_its_own_drift() -> None:
    state = RuleState(Rule(0.5, 9, 0))
    assert state.decide({"cond": 0.75, "uncond": 1.0}) is Reason.SKIPPED
    assert state.decide({"cond": 1.0, "uncond": 0.75}) is Reason.SKIPPED  # .5 and .25
    assert state.decide({"cond": 1.0, "uncond": 1.0}) is Reason.THRESHOLD  # .75 and .5


@pytest.mark.parametrize("rule", [Rule(0, 5, 0), Rule(0.5, 0, 0)], ids=["threshold", "max_skip"])
def test_zero_skips_nothing(rule: Rule) -> None:
    assert rule.skips_nothing
    assert RuleState(rule).decide({"cond": 1.0}) is Reason.OFF
    assert decisions(rule, [1.0] * 4) == "####"


@pytest.mark.parametrize("ratio", [None, float("nan"), float("inf")])
def test_an_unknown_ratio_computes_and_restarts(ratio: float | None) -> None:
    state = RuleState(Rule(1, 2, 0))
    state.decide({"cond": 1.0, "uncond": 1.0})
    assert state.decide({"cond": 1.0, "uncond": ratio}) is Reason.NO_RATIO
    pair = {"cond": 1.0, "uncond": 1.0}
    assert [state.decide(pair) for _ in range(2)] == [Reason.SKIPPED] * 2


def test_no_branch_at_all_is_computed() -> None:
    assert RuleState(Rule(1, 2, 0)).decide({}) is Reason.NO_RATIO


@pytest.mark.parametrize(
    ("start", "end", "allowed"),
    [
        (0, -1, [0, 1, 2, 3, 4, 5]),
        (2, 4, [2, 3, 4]),
        (3, 3, [3]),
        (1, -2, [1, 2, 3, 4]),
        (-3, -2, [3, 4]),
        (-2, 5, [4, 5]),
        (4, 99, [4, 5]),
        (-99, 1, [0, 1]),
        (5, -4, []),
    ],
)
def test_the_window_holds_both_ends_and_counts_back(
    start: int, end: int, allowed: list[int]
) -> None:
    window = Window(start, end)
    assert [step for step in range(6) if window.allows(step, 6)] == allowed
