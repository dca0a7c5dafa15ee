"""What runs teach of a model."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from magcache.curves import (
    Comparison,
    Identity,
    Learned,
    Notebook,
    Trajectory,
    shifted_sigmas,
)
from magcache.decide import Course, Target, decider_for
from magcache.decide.by_plan import PlanDecider

IDENTITY = Identity("Toy", 7, "shapes", "weights")
LEVELS = shifted_sigmas(20)


def planned(learned: Learned, guidance: float = 3.0) -> PlanDecider:
    course = Course.of_steps(Trajectory(LEVELS))
    decider = decider_for(Target(2), course, guidance=guidance, learned=learned)
    assert isinstance(decider, PlanDecider)
    return decider


def test_nothing_learned_changes_nothing() -> None:
    assert Learned().ratios([0.1, 0.9]).tolist() == [1, 1]


def test_what_is_found_again_and_again_is_believed_where_it_was_found() -> None:
    once = Learned().taught([(0.3, 4.0)])
    often = once
    for _ in range(9):
        often = often.taught([(0.3, 4.0)])
    near, far = often.ratios([0.3, 0.9])
    assert 1 < once.ratios([0.3])[0] < near < 4 and near == pytest.approx(4, rel=0.1)
    assert far == pytest.approx(1, abs=1e-3)


def test_older_lessons_fade() -> None:
    learned = Learned()
    for ratio in [4.0] * 100 + [1.0] * 100:
        learned = learned.taught([(0.5, ratio)])
    assert learned.ratios([0.5])[0] == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("lesson", [(0.5, math.nan), (0.5, math.inf), (0.5, 0.0), (2.0, 3.0)])
def test_what_is_no_number_teaches_nothing(lesson: tuple[float, float]) -> None:
    assert Learned().taught([lesson]).ratios(LEVELS).tolist() == [1] * 20


def test_a_wild_ratio_teaches_a_hundredfold_at_most() -> None:
    learned = Learned()
    for _ in range(50):
        learned = learned.taught([(0.5, 1e30)])
    assert learned.ratios([0.5])[0] <= 100


def test_a_plan_computes_more_where_errors_are_larger() -> None:
    learned = Learned()
    for _ in range(5):
        learned = learned.taught([(level, 10.0) for level in LEVELS if level < 0.4])
    before, after = (str(planned(known).schedule()) for known in (Learned(), learned))
    assert before.count("#") == after.count("#") == 10
    assert after[12:].count("#") > before[12:].count("#")


def test_a_lesson_is_the_guided_error_beside_the_expected_one() -> None:
    own = planned(Learned())
    weights, expected = own.predict(["mean"], 0.5, [0.6, 0.55])
    _, apart = own.predict(["difference"], 0.5, [0.6, 0.55])
    sizes = {name: math.exp(gram.norms.log_norm(0.5)) for name, gram in own.grams.items()}
    seen = [
        Comparison(0.5, "mean", expected, 2 * expected, sizes["mean"]),
        Comparison(0.5, "difference", apart, 2 * apart, sizes["difference"]),
    ]
    ((level, ratio),) = own.lessons(seen)
    assert len(weights) == 2 and level == 0.5 and ratio == pytest.approx(4)


def test_a_branch_that_was_not_planned_with_teaches_nothing() -> None:
    own = planned(Learned(), guidance=1.0)  # CFG++ computes both branches at a scale of 1
    seen = [Comparison(0.5, name, 0.1, 0.2, 1.0) for name in ("mean", "difference")]
    assert own.lessons(seen) == own.lessons(seen[:1]) != []


def test_what_was_learned_is_not_taught_again() -> None:
    learned = Learned()
    for _ in range(20):
        learned = learned.taught([(0.5, 4.0)])
    own = planned(learned, guidance=1.0)
    _, expected = own.predict(["mean"], 0.5, [0.6, 0.55])
    _, naive = planned(Learned(), guidance=1.0).predict(["mean"], 0.5, [0.6, 0.55])
    assert expected == pytest.approx(naive * math.sqrt(learned.ratios([0.5])[0]))
    ((_, ratio),) = own.lessons([Comparison(0.5, "mean", expected, 2 * naive, 1.0)])
    assert ratio == pytest.approx(4)


# Files


def test_a_notebook_adds_to_its_file(tmp_path: Path) -> None:
    book = Notebook(tmp_path / "learned", IDENTITY)
    assert book.read() == Learned()
    book.add([])
    assert not book.path.exists()
    book.add([(0.5, 4.0)])
    book.add([(0.5, 4.0)])
    assert book.read().runs == 2 and book.read() == Learned().taught([(0.5, 4.0)]).taught(
        [(0.5, 4.0)]
    )
    assert book.path.stat().st_size < 4096
    assert [path.name for path in book.folder.iterdir()] == [book.path.name]


def test_other_weights_and_patches_have_their_own_file(tmp_path: Path) -> None:
    others = [
        IDENTITY,
        Identity("Toy", 7, "shapes", "other"),
        Identity("Toy", 7, "shapes", None, "12 patched weights"),
        Identity("Toy", 7, "shapes"),
    ]
    assert len({Notebook(tmp_path, each).path for each in others}) == 4


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "null", '{"format": 2}', "[" * 100_000,
        '{"format": 1, "weights": [1], "logs": [1], "runs": 1}',
        json.dumps({"format": 1, "weights": [-1.0] * 32, "logs": [0.0] * 32, "runs": 1}),
        json.dumps({"format": 1, "weights": [1.0] * 32, "logs": [1e9] * 32, "runs": 1}),
        json.dumps({"format": 1, "weights": [math.nan] * 32, "logs": [0.0] * 32, "runs": 1}),
        json.dumps({"format": 1, "weights": ["x"] * 32, "logs": [0.0] * 32, "runs": 1}),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_passed_over_with_a_warning(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = Notebook(tmp_path, IDENTITY)
    book.path.write_text(text)
    assert book.read() == Learned()
    assert f"{book.path} was ignored" in caplog.text
    book.add([(0.5, 2.0)])
    assert book.read().runs == 1


def test_a_full_disk_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    Notebook(tmp_path, IDENTITY).add([(0.5, 2.0)])
    assert "No space left on device" in caplog.text


def test_ratios_are_smooth() -> None:
    learned = Learned().taught([(level, 1 + 3 * level) for level in LEVELS])
    found = learned.ratios(np.linspace(0, 1, 101))
    assert np.abs(np.diff(np.log(found))).max() < 0.1
