"""What a user may ask for, and what is said to be done before it is."""

from __future__ import annotations

from typing import Any

import pytest

from magcache.app.settings import EMOJI, KINDS, Problem, Settings, clock


@pytest.mark.parametrize(
    ("seconds", "sections", "frames"),
    [(1, 1, 37), (1.7, 1, 37), (1.9, 2, 73), (5, 4, 145), (120, 100, 3601)],
)
def test_sections_and_frames_of_a_length(seconds: float, sections: int, frames: int) -> None:
    """30 frames a second, 36 frames a section, as FramePack's demo."""
    settings = Settings(seconds=seconds)
    assert (settings.sections, settings.frames) == (sections, frames)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seconds": 0.5}, "The length in seconds must be from 1 to 120, got 0.5."),
        ({"seconds": 121}, "The length in seconds must be from 1 to 120, got 121."),
        ({"seconds": float("nan")}, "The length in seconds must be from 1 to 120, got nan."),
        ({"seconds": "long"}, "The length in seconds must be from 1 to 120, got long."),
        ({"seed": -1}, "The seed must be from 0"),
        ({"seed": None}, "The seed must be from 0"),
        ({"steps": 0}, "Steps must be from 1 to 100, got 0."),
        ({"steps": 25.5}, "Steps must be a whole number, got 25.5."),
        ({"threshold": 2}, "The threshold must be from 0 to 1, got 2."),
        ({"retention": -0.1}, "The retention must be from 0 to 1"),
        ({"speedup": 0.5}, "The speed-up must be from 1 to 10"),
        ({"crf": 0}, "Compression must be from 1 to 51"),
        ({"model": "Wan"}, "There is no model 'Wan': choose Emoji, FramePack, FramePack-F1."),
    ],
)
def test_a_setting_out_of_its_range_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(Problem) as raised:
        Settings(**given)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        ({}, 12),
        ({"speedup": 1}, 25),
        ({"steps": 10, "speedup": 10}, 6),
        ({"model": EMOJI}, 12),
        ({"model": EMOJI, "rule": True, "threshold": 0}, 12),  # it has no published curve
        ({"rule": True}, 12),
        ({"rule": True, "threshold": 0.15, "max_skip": 4}, 11),
        ({"rule": True, "model": "FramePack-F1"}, 12),
        ({"rule": True, "model": "FramePack-F1", "threshold": 0.15, "max_skip": 4}, 10),
        ({"rule": True, "threshold": 0}, 25),
        ({"rule": True, "max_skip": 0}, 25),
    ],
)
def test_how_much_of_a_section_is_planned_to_be_computed(
    given: dict[str, Any], computed: int
) -> None:
    settings = Settings(**given)
    schedule = settings.schedule()
    assert len(schedule) == settings.steps and schedule.count("#") == computed


def test_each_kind_has_its_own_weights_curve_and_sampling() -> None:
    small, first, second = KINDS.values()
    assert small.small and not first.small and not second.small
    assert first.weights != second.weights and first.preset != second.preset
    assert (first.sampling, second.sampling) == ("inverted_anti_drifting", "vanilla")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (12.1, "13 s"), (99, "99 s"), (245, "4:05 min")]
)
def test_durations_are_written_as_people_do(seconds: float, text: str) -> None:
    assert clock(seconds) == text
