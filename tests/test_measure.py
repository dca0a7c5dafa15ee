"""Measuring a toy whose results and times are known: the figures, going on, and what goes wrong."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from magcache.images import Compared
from magcache.measure import Results, Sampled, Way, begun, measure, run, speeds_of
from magcache.measure.store import Far

STEPS = 12
GREY = 0.5
OFF = {None: 0.0, 2.0: 0.01, 3.0: 0.1}  # of each value, by the speed; a plain one is 0.1 off


@dataclass
class Toy:
    """Takes a second a computed step, and is off by a known amount.

    Attributes:
        stop_at, short: The sampling that is interrupted, and the way that lacks memory.
    """

    steps: int = STEPS
    samples: int = 2
    stop_at: int = -1
    short: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    made: list[str] = field(default_factory=list)
    warmed: int = 0

    def warm_up(self) -> None:
        self.warmed += 1

    def sample(
        self, way: Way, number: int, on_step: Callable[[int], None]
    ) -> tuple[torch.Tensor, Sampled]:
        if len(self.made) == self.stop_at:
            raise KeyboardInterrupt
        if way.name == self.short:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self.made.append(f"{way.name} {number}")
        on_step(way.steps)
        off = OFF[way.speedup] if way.whole or way.speedup else 0.1
        output = torch.full((1, 16, 16, 3), GREY + off)
        if way.speedup is None:
            return output, Sampled(way.steps)
        computed = int(self.steps / way.speedup)
        return output, Sampled(computed, 2**30, computed, self.steps)

    def images(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def freed(self) -> None:
        pass


@pytest.fixture
def results(tmp_path: Path) -> Callable[[], Results]:
    return lambda: begun(tmp_path, {"device": "toy"}, ["a", 1])


def silent(*_: object) -> None:
    pass


ALL = ["uncached, 12 steps", "MagCache 2x", "plain, 6 steps", "MagCache 3x", "plain, 4 steps"]


def test_each_speed_has_a_row_and_one_of_as_many_plain_steps(
    results: Callable[[], Results],
) -> None:
    found = measure(Toy(), [2.0, 3.0], results(), silent)
    assert [row.name for row in found.rows] == ALL
    assert [row.speedup for row in found.rows] == [1, 2, 2, 3, 3]
    assert [row.computed for row in found.rows] == [
        "12 steps", "6 of 12", "6 steps", "4 of 12", "4 steps",
    ]  # fmt: skip
    assert found.rows[1].psnrs == pytest.approx([40, 40])  # a hundredth off
    assert found.rows[2].psnrs == pytest.approx([20, 20], abs=1e-3)
    cells = found.rows[1].cells
    assert cells[2:5] == ["6.00", "2.00x", "40.0 / 40.0"] and cells[-1] == "1.00 GiB"
    assert found.rows[0].cells[4:] == ["\u2013"] * 4


def test_the_text_is_what_was_given_and_the_table(results: Callable[[], Results]) -> None:
    text = measure(Toy(), [2.0], results(), silent).text()
    lines = text.splitlines()
    assert "- device: toy" in lines and "- pictures: 16x16" in lines
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 5 and len({len(line) for line in table}) == 1
    assert "mean / worst" in text


def test_the_picture_has_a_row_a_way(results: Callable[[], Results]) -> None:
    one = measure(Toy(), [2.0], results(), silent)
    more = measure(Toy(), [2.0, 3.0], begun(one.results.folder.parent, {}, "other"), silent)
    assert more.picture().height - one.picture().height == 2 * (96 + 8)


def test_where_two_speeds_cost_the_same_steps_these_are_sampled_once(
    results: Callable[[], Results],
) -> None:
    toy = Toy(samples=1)
    OFF[2.1] = 0.01
    measure(toy, [2.0, 2.1], results(), silent)
    assert toy.made == [f"{n} 0" for n in ("uncached, 12 steps", "MagCache 2x", "plain, 6 steps",
                                           "MagCache 2.1x", "plain, 5 steps")]  # fmt: skip
    toy = Toy(steps=3, samples=1)
    measure(toy, [2.0, 3.0], begun(results().folder.parent, {}, 3), silent)
    assert toy.made.count("plain, 1 steps 0") == 1


def test_progress_reaches_its_end_once(results: Callable[[], Results]) -> None:
    seen: list[tuple[str, int, int]] = []
    measure(Toy(), [2.0, 3.0], results(), lambda *each: seen.append(each))
    sampling = [each for each in seen if not each[0].startswith("comparing")]
    assert sampling[0] == ("warming up", 0, 92)
    assert [done for _, done, _ in sampling] == sorted(done for _, done, _ in sampling)
    assert sampling[-1] == ("plain, 4 steps, sample 2 of 2", 92, 92)


@pytest.mark.parametrize("stop_at", [0, 1, 4, 9])
def test_what_was_broken_off_goes_on(stop_at: int, results: Callable[[], Results]) -> None:
    first = Toy(stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt):
        measure(first, [2.0, 3.0], results(), silent)
    assert len(results().sampled) == stop_at
    second = Toy()
    found = measure(second, [2.0, 3.0], results(), silent)
    assert first.made + second.made == [f"{name} {at}" for at in (0, 1) for name in ALL]
    assert [row.samples for row in found.rows] == [2] * 5


def test_what_was_finished_begins_anew_and_leaves_no_large_file(
    results: Callable[[], Results],
) -> None:
    found = measure(Toy(), [2.0], results(), silent)
    found.results.finish()
    assert not list(found.results.folder.glob("*.safetensors"))
    assert found.picture().height > 200
    assert not results().sampled


def test_the_first_part_says_what_was_known(results: Callable[[], Results]) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure(Toy(stop_at=2), [2.0], results(), silent)
    folder = results().folder
    assert begun(folder.parent, {"device": "another"}, ["a", 1]).about == {"device": "toy"}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "done": 0}'])
def test_a_file_that_cannot_be_used_is_begun_anew(
    content: str, results: Callable[[], Results]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure(Toy(stop_at=2), [2.0], results(), silent)
    (results().folder / "measurement.json").write_text(content)
    assert not results().sampled
    assert measure(Toy(), [2.0], results(), silent).rows[1].samples == 2


def test_a_result_whose_file_is_gone_is_made_again(results: Callable[[], Results]) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure(Toy(stop_at=3), [2.0], results(), silent)
    next(results().folder.glob("MagCache*.safetensors")).unlink()
    toy = Toy()
    measure(toy, [2.0], results(), silent)
    assert toy.made[0] == "MagCache 2x 0"


def test_one_way_without_memory_leaves_the_others(results: Callable[[], Results]) -> None:
    toy = Toy(short="MagCache 2x")
    found = measure(toy, [2.0, 3.0], results(), silent)
    assert [row.samples for row in found.rows] == [2, 0, 2, 2, 2]
    assert found.rows[1].cells[:3] == ["MagCache 2x", "out of memory", "\u2013"]
    assert toy.warmed == 3, "once more after each"
    assert not found.complete
    again = Toy()
    assert measure(again, [2.0, 3.0], results(), silent).complete
    assert again.made == ["MagCache 2x 0", "MagCache 2x 1"]


def test_without_memory_for_anything_it_says_so(results: Callable[[], Results]) -> None:
    with pytest.raises(MemoryError, match="even without MagCache: measure at a smaller size"):
        measure(Toy(short=ALL[0]), [2.0], results(), silent)


def test_other_errors_are_not_taken_for_that(results: Callable[[], Results]) -> None:
    class Broken(Toy):
        def sample(self, *_: object) -> tuple[torch.Tensor, Sampled]:
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        measure(Broken(), [2.0], results(), silent)


def test_one_step_leaves_nothing_to_measure(results: Callable[[], Results]) -> None:
    with pytest.raises(ValueError, match="1 step leaves nothing to skip: measure 8 or more"):
        measure(Toy(steps=1), [2.0], results(), silent)


def test_equal_pictures_are_called_equal(
    results: Callable[[], Results], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OFF, 2.0, 0.0)
    row = measure(Toy(), [2.0], results(), silent).rows[1]
    assert row.cells[4:7] == ["equal / equal", "1.000 / 1.000", "0.000 / 0.000"]
    assert row.short == "2.00x, equal" and math.isinf(row.psnrs[0])


def test_where_the_device_has_no_room_for_a_comparison_it_is_made_elsewhere(
    results: Callable[[], Results], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = run.compare

    def crowded(a: torch.Tensor, b: torch.Tensor, device: torch.device | None = None) -> Compared:
        if device is not None:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return compare(a, b)

    monkeypatch.setattr(run, "compare", crowded)
    assert measure(Toy(), [2.0], results(), silent).rows[1].psnrs == pytest.approx([40, 40])


def test_one_equal_picture_does_not_hide_what_the_others_differ_by(
    results: Callable[[], Results],
) -> None:
    kept = measure(Toy(), [2.0], results(), silent)
    kept.results.far["MagCache 2x", 0] = Far(0.0, 1.0, 0.0)
    assert kept.rows[1].cells[4] == "40.0 / 40.0"


def test_few_measurements_are_kept(tmp_path: Path) -> None:
    for key in range(7):
        measure(Toy(samples=1), [2.0], begun(tmp_path, {}, key), silent)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    ("text", "speeds"),
    [("1.5, 2, 3", [1.5, 2, 3]), ("3x 2x", [2, 3]), ("2", [2]), ("2;2,\n4", [2, 4])],
)
def test_speeds(text: str, speeds: list[float]) -> None:
    assert speeds_of(text) == speeds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "give 1 to 6 speeds"),
        ("fast", "'fast' is not a speed"),
        ("1", "above 1 and up to 4"),
        ("2, 5", "'5' is not a speed"),
        ("nan", "is not a speed"),
        ("1.1 1.2 1.3 1.4 1.5 1.6 1.7", "not 7"),
    ],
)
def test_mistaken_speeds(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        speeds_of(text)


def test_the_file_holds_no_names(results: Callable[[], Results]) -> None:
    found = measure(Toy(), [2.0], results(), silent)
    held = json.loads((found.results.folder / "measurement.json").read_text())
    assert held["about"] == {"device": "toy", "pictures": "16x16"}
