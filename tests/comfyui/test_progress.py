"""What a node shows of its sampling while it runs, and after."""

import re
import sys
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import folder_paths
import pytest
import torch
from tiny_models import FURTHER, TINY, sample
from watch import calibrate, settings_of

from magcache.hosts.comfyui import host, watch
from magcache.hosts.comfyui.models import UNFIT
from magcache.hosts.comfyui.nodes.calibration import MagCacheCalibration
from magcache.hosts.comfyui.nodes.magcache import MagCache
from magcache.hosts.comfyui.nodes.target_speed import MagCacheTargetSpeed
from magcache.run import Run

WAN, NEW = TINY["wan_t2v"], FURTHER["lumina2"]
COMPUTED, SKIPPED = 10.0, 1.0  # seconds of the clock below
STEPS = 20


class Shown(list[tuple[str, str | None]]):
    """Texts and the nodes they were shown on."""

    @property
    def texts(self) -> list[str]:
        return [text for text, _ in self]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Shown:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    texts = Shown()
    monkeypatch.setattr(host, "show", lambda text, node_id: texts.append((text, node_id)))
    return texts


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only evaluations move: all branches of the tiny Wan are one model call."""
    now = [0.0]
    compute, skip = Run._compute, Run._skip

    def moved(by: float, call: Any) -> Any:
        def timed(*args: Any) -> Any:
            now[0] += by
            return call(*args)

        return timed

    monkeypatch.setattr(Run, "_compute", moved(COMPUTED, compute))
    monkeypatch.setattr(Run, "_skip", moved(SKIPPED, skip))
    monkeypatch.setattr(watch, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


def cached(node_id: str | None = "7", threshold: float = 0.3, max_skip: int = 2) -> Any:
    arguments = (WAN.build(), "wan2.1_t2v_1.3B", threshold, 0.2, max_skip, 0, -1)
    return MagCache().apply(*arguments, calibration="published", node_id=node_id)[0]


def expected(schedule: str) -> list[str]:
    """The texts of a run of one evaluation a step, as the clock of `clock` has it."""
    costs = [COMPUTED if symbol == "#" else SKIPPED for symbol in schedule]
    after, count = [0.0, *accumulate(costs)], len(schedule)
    computed = schedule.count("#")
    gain = f"{count / computed:.1f}x, {computed} of {count} computed"
    texts = [f"step 1 of {count}\n{gain}"]
    for step in range(1, count):
        known = "." in schedule[:step]  # what a skipped one costs
        free = 0.0 if known else SKIPPED * schedule[step:].count(".")
        left = watch.clock(after[-1] - after[step] - free)
        texts.append(f"step {step + 1} of {count}, {left} left\n{gain}")
    return texts


def test_it_counts_and_foresees_the_time_that_is_left(shown: Shown, clock: list[float]) -> None:
    model = cached()
    sample(model, WAN, STEPS)
    last = settings_of(model).watch.last
    schedule = last.schedule
    assert schedule.count(".") > STEPS // 3
    first, *others = expected(schedule)  # nothing is held at first
    assert shown.texts == [first.partition("\n")[0], *others, last.short()]
    assert {node for _, node in shown} == {"7"}


def test_a_measured_run_is_foreseen(shown: Shown, clock: list[float]) -> None:
    (model,) = MagCache().apply(NEW.build(), "auto", 0.3, 0.1, 1, 0, -1, node_id="8")
    sample(model, NEW, STEPS)
    left = [watch.clock((STEPS - n) * COMPUTED) for n in range(STEPS)]
    assert shown.texts[1:STEPS] == [
        f"step {n + 1} of {STEPS}, {left[n]} left\nmeasuring" for n in range(1, STEPS)
    ]
    assert "stored as" in shown.texts[-1]


def test_a_planned_run_is_foreseen_too(shown: Shown, clock: list[float]) -> None:
    (model,) = MagCacheTargetSpeed().apply(WAN.build(), 2.0, "automatic", node_id="8")
    calibrate(model, WAN, STEPS)
    shown.clear()
    sample(model, WAN, STEPS, seed=2)
    schedule = settings_of(model).watch.last.schedule
    first_skip = schedule.index(".") + 1
    assert shown.texts[first_skip:STEPS] == expected(schedule)[first_skip:]


@pytest.mark.parametrize(
    ("steps", "planned"),
    [
        (20, "2.0x, 10 of 20 computed. Expected difference: small."),
        (8, "1.3x, 6 of 8 computed. Expected difference: small."),
        (3, "nothing to gain: 3 steps"),
    ],
)
def test_a_forecast_run_says_beforehand_what_is_computed(
    shown: Shown, steps: int, planned: str
) -> None:
    (model,) = MagCacheTargetSpeed().apply(WAN.build(), 2.0, "automatic", node_id="9")
    sample(model, WAN, steps)
    assert shown.texts[0] == f"step 1 of {steps}\n{planned}"
    measured = re.sub(r"^[\d.]+x", planned.partition(",")[0], shown.texts[-1])
    assert measured == planned


def test_the_text_comes_a_few_times_a_second_only(
    shown: Shown, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_EVERY", 25.0)
    sample(cached(threshold=0), WAN, STEPS)
    steps = [text.partition(" of")[0] for text in shown.texts[:-1]]
    assert steps == [f"step {step}" for step in range(1, STEPS + 1, 3)]  # every 25 s of 10 s each


def test_two_evaluations_a_step_are_reckoned_with(shown: Shown, clock: list[float]) -> None:
    sample(cached(threshold=0), WAN, 10, sampler="heun")
    assert clock[0] == 19 * COMPUTED
    for done in range(4, 19):
        minutes, seconds = re.findall(r"(\d+):(\d+) left$", shown.texts[done])[0]
        left = (19 - done) * COMPUTED
        assert 60 * int(minutes) + int(seconds) == pytest.approx(left, rel=0.25, abs=1.2 * COMPUTED)


def test_calibrating_says_that_it_measures(shown: Shown, clock: list[float]) -> None:
    (model,) = MagCacheCalibration().apply(WAN.build(), "auto", node_id="3")
    sample(model, WAN, 5)
    assert shown.texts[1:5] == [
        f"step {n} of 5, {time} left\nmeasuring"
        for n, time in ((2, "0:40"), (3, "0:30"), (4, "0:20"), (5, "0:10"))
    ]
    assert re.fullmatch(r"5 steps measured, stored as [\w.-]+", shown.texts[-1])


def test_an_uncached_model_says_why(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_EVERY", 60.0)  # on a slow machine too there is one text
    model = cached()
    model.model_options["transformer_options"]["easycache"] = SimpleNamespace(name="easycache")
    sample(model, WAN, 5)
    why = "runs uncached: easycache is on the same model and does the work; remove one of them"
    assert shown.texts == [f"step 1 of 5\n{why}", why]


@pytest.mark.parametrize(
    "applied",
    [
        lambda model: MagCache().apply(model, "auto", 0.24, 0.2, 4, 0, -1, node_id="5"),
        lambda model: MagCacheCalibration().apply(model, "auto", node_id="5"),
        lambda model: MagCacheTargetSpeed().apply(model, 2.0, "automatic", node_id="5"),
    ],
)
def test_a_model_that_does_not_fit_says_so_at_once(applied: Any, shown: Shown) -> None:
    model, (name, why) = WAN.build(), next(iter(UNFIT.items()))
    model.model.diffusion_model.__class__ = type(name, (type(model.model.diffusion_model),), {})
    assert applied(model) == (model,)
    assert shown == [(f"runs uncached: {name}'s blocks cannot be skipped: {why}", "5")]


def test_an_interrupted_sampling_says_where(shown: Shown, clock: list[float]) -> None:
    def callback(step: int, *_: Any) -> None:
        if step == 2:
            comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    model = cached(threshold=0)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(model, WAN, STEPS, callback=callback)
    assert shown.texts[-1] == "stopped at step 3 of 20"
    assert settings_of(model).watch.last is None


def test_each_node_shows_the_samplings_of_its_own_model(shown: Shown) -> None:
    high, low = cached("1"), cached("2")
    sample(high, WAN, 4)
    sample(low, WAN, 4)
    nodes = [str(node) for _, node in shown]
    assert nodes == sorted(nodes) and {*nodes} == {"1", "2"}


def test_without_a_server_or_a_node_the_result_is_the_same() -> None:
    assert "server" not in sys.modules or not hasattr(
        sys.modules["server"].PromptServer, "instance"
    )
    with_node, without = cached("7"), cached(None)
    assert torch.equal(sample(with_node, WAN, 6), sample(without, WAN, 6))


def test_a_text_goes_to_the_page_that_queued_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, ...]] = []
    instance = SimpleNamespace(
        client_id="a page", send_progress_text=lambda *arguments: sent.append(arguments)
    )
    module = SimpleNamespace(PromptServer=SimpleNamespace(instance=instance))
    monkeypatch.setitem(sys.modules, "server", module)
    host.show("two\nlines", "12:5")
    host.show("text of no node", None)
    assert sent == [("two  \nlines", "12:5", "a page")]  # a line break of HTML and of Markdown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0:00"), (59.6, "1:00"), (75, "1:15"), (3725, "1:02:05")]
)
def test_times_are_written_as_a_clock(seconds: float, text: str) -> None:
    assert watch.clock(seconds) == text
