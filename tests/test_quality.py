"""The bench of quality at equal cost: its counting, selection, resuming and forecaster."""

import json
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.quality import cluster, spectrum
from bench.quality.bench import Bench, prompt_sets, uncached_of
from bench.quality.comfyhost import ComfyHost
from bench.quality.comfyui import shifted
from bench.quality.condition import Condition, grid, reaching
from bench.quality.counting import Cost, cost_of, counted
from bench.quality.hosts import DiffusersHost, Sample
from bench.quality.picture import apart, draw
from bench.quality.report import write
from bench.quality.rivals import magcache_schedule, taylorseer_schedule
from bench.quality.select import best_at, between, chosen
from bench.quality.store import Result, Store, measured
from bench.quality.subjects import SUBJECTS, Emoji
from bench.quality.ways import FORECAST, RULE, UNCACHED

CONDITION = Condition(28, 3.0, 1.0)
TAYLORSEER = {
    "cache_interval": 4, "disable_cache_before_step": 2, "max_order": 1, "use_lite_mode": True,
}  # fmt: skip


class Toy(nn.Module):
    """Two blocks of a linear layer 4 → 4, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.head = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, skip: int = 0) -> torch.Tensor:
        for block in list(self.blocks)[skip:]:
            x = block(x)
        return self.head(x)


def result(way: str, flops: float, psnr: float) -> Result:
    cost = Cost(flops, 28 * flops, 1.0)
    batch = {"host": "diffusers", "batch": 16}
    setting = batch if way == UNCACHED else {"flops": flops}
    return Result(way, setting, "test-2", 16, cost, [psnr, psnr], [0.9, 0.9], [0.1, 0.1])


def test_work_is_that_of_the_layers_called_inside_the_blocks() -> None:
    toy, x = Toy(), torch.zeros(3, 5, 4)
    with counted(toy, ["blocks"]) as work:
        toy(x)
        toy(x, skip=1)
        toy(x, skip=2)
    one = 2 * 3 * 5 * 4 * 4  # two operations a weight and row
    assert work.flops == [2 * one, one, 0]
    assert work.rows == [3, 3, 3]
    cost = cost_of(work, prompts=3, branches=1)
    assert cost.flops == one  # three layer calls on 3 rows, a prompt
    assert cost.computed == 1  # only the first call ran all blocks


def test_counting_leaves_no_hooks() -> None:
    toy = Toy()
    with counted(toy, ["blocks"]):
        pass
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in toy.modules())


def test_the_best_at_a_cost_is_the_nearest_that_is_not_dearer() -> None:
    uncached = result(UNCACHED, 1.0, 100)
    results = [result("a", 0.3, 20), result("a", 0.45, 30), result("a", 0.6, 40)]
    assert best_at(results, uncached, 0.5) is results[1]
    assert best_at(results, uncached, 0.25) is None  # all are dearer
    assert best_at(results, uncached, 0.6) is results[2]


def test_a_way_that_leaves_half_of_the_cost_unused_is_not_shown_there() -> None:
    uncached = result(UNCACHED, 1.0, 100)
    assert best_at([result("a", 0.2, 30)], uncached, 0.5) is None


def test_the_best_at_each_target_is_chosen_once() -> None:
    uncached = result(UNCACHED, 1.0, 100)
    whole = [result("a", target / 28, 20 + target) for target in CONDITION.targets]
    worse = result("a", CONDITION.targets[1] / 28, 20)
    assert chosen([*whole, worse], uncached, CONDITION) == whole
    assert chosen(whole[1:2], uncached, CONDITION) == whole[1:2]  # at two targets


def test_a_knob_is_refined_between_a_cheaper_and_a_dearer_setting() -> None:
    def at(knob: float, kind: str, flops: float, psnr: float) -> Result:
        return replace(result("a", flops, psnr), setting={"knob": knob, "kind": kind})

    uncached = result(UNCACHED, 1.0, 100)
    poor = [at(0.1, "poor", 0.9, 30), at(0.4, "poor", 0.2, 10)]
    good = [at(0.1, "good", 0.9, 50), at(0.4, "good", 0.2, 20)]
    found = between([*poor, *good], uncached, "knob", 0.5)
    assert found == {"knob": 0.2, "kind": "good"}  # in the middle by ratio
    near = at(0.2, "good", 0.49, 30)
    assert between([*poor, *good, near], uncached, "knob", 0.5) is None
    assert between(good, uncached, "knob", 0.1) is None  # nothing is so cheap


def test_settings_are_those_that_reach_a_target() -> None:
    def schedule(setting: dict) -> list[bool]:
        return [step < setting["count"] for step in range(10)]

    found = reaching([4, 8], [{"a": 1}, {"a": 2}], "count", [3, 5, 8], schedule)
    assert found == [{"a": 1, "count": 3}, {"a": 1, "count": 8}]  # a second way to them is none


def test_grid_has_every_combination() -> None:
    assert grid(a=(1, 2), b=(3,)) == [{"a": 1, "b": 3}, {"a": 2, "b": 3}]


def test_results_survive_and_half_a_line_does_not(tmp_path: Path) -> None:
    store = Store("toy", CONDITION, tmp_path)
    store.add(result("a", 0.5, 30))
    path = tmp_path / "toy-28-cfg3-shift1.jsonl"
    with path.open("a") as file:
        file.write('{"way": "b", "sett')
    again = Store("toy", CONDITION, tmp_path)
    assert list(again.results.values()) == [result("a", 0.5, 30)]
    again.add(result("b", 0.5, 31))
    assert [json.loads(line)["way"] for line in path.read_text().splitlines()] == ["a", "b"]
    again.forget("a")
    assert [r.way for r in Store("toy", CONDITION, tmp_path).results.values()] == ["b"]


def test_equal_images_are_100_db_apart() -> None:
    frames = np.random.default_rng(0).random((2, 1, 16, 16, 3))
    psnr, ssim, _flip = measured(frames, frames)
    assert psnr == [100.0, 100.0] and ssim == [1.0, 1.0]


def test_chebyshev_weights_reproduce_a_polynomial_of_their_degree() -> None:
    def polynomial(x: float) -> float:
        return 1 - 2 * x + 3 * x**2 - x**3 + 0.5 * x**4

    known = [-1.0, -0.6, -0.1, 0.2, 0.5, 0.6]
    weights = spectrum.chebyshev_weights(known, 0.9, degree=4, ridge=1e-10)
    assert weights @ [polynomial(x) for x in known] == pytest.approx(polynomial(0.9), abs=1e-5)


def test_the_forecast_is_half_a_taylor_step() -> None:
    weights = spectrum.forecast_weights([-1.0, 0.0], 1.0, mix=0.0)
    assert weights.tolist() == [-1.0, 2.0]
    mixed = spectrum.forecast_weights([-1.0, 0.0], 1.0)
    polynomial = spectrum.chebyshev_weights([-1.0, 0.0], 1.0)
    np.testing.assert_allclose(mixed, (weights + polynomial) / 2)
    assert spectrum.forecast_weights([0.0], 1.0).tolist() == [1.0]


@pytest.mark.parametrize(
    ("window", "flex", "expected"),
    [(2.0, 0.0, "##.#.#.#"), (2.0, 1.0, "##.#..#."), (1.0, 0.5, "####.#.#")],
)
def test_spectrum_windows_grow(window: float, flex: float, expected: str) -> None:
    made = spectrum.schedule(8, warmup=2, window=window, flex=flex)
    assert "".join("#" if computed else "." for computed in made) == expected


def test_diffusers_magcache_is_planned_by_its_rule() -> None:
    ratios = [1.0, 0.9, 0.9, 0.9, 0.9]
    setting = {"threshold": 0.3, "max_skip_steps": 9, "retention_ratio": 0.2}
    # errors 0.1, then 0.1 + 0.19 = 0.29, then 0.29 + 0.271 > 0.3: computed, and anew
    assert magcache_schedule(ratios, setting) == [True, False, False, True, False]


def test_comfyui_samples_at_the_sigmas_of_diffusers() -> None:
    pipe = Emoji().pipeline(Condition(28, 3.0, 3.0))
    pipe.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 28, 28))
    torch.testing.assert_close(shifted(28, 3.0), pipe.scheduler.sigmas.float())


def test_prompts_to_sweep_on_are_not_those_to_compare_on() -> None:
    subject = Emoji()
    swept, compared = prompt_sets(subject, 64)
    assert len(compared.texts) == 64 and not set(swept.seeds) & set(compared.seeds)
    assert not {*subject.calibration_prompts} & {*swept.texts, *compared.texts}
    with pytest.raises(ValueError, match="96 prompts"):
        prompt_sets(subject, 96)


class FakeHost:
    """A host with one way; its images are the nearer to the uncached ones the more it costs."""

    name = "diffusers"
    notes = ()

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def ways(self) -> list[str]:
        return ["a", "broken"]

    def settings(self, way: str) -> list[dict]:
        if way == "broken":
            raise RuntimeError("it cannot")
        return [{"count": count} for count in range(1, 29)]

    def batch(self, way: str) -> int:
        return 16

    def knob(self, way: str) -> None:
        return None

    def sample(self, way, setting, prompts, seeds, batch, full) -> Sample:
        count = setting.get("count", 28)
        self.asked.append((way, count))
        frames = np.full((len(prompts), 1, 16, 16, 3), (28 - count) / 56)
        return Sample(frames, Cost(float(count), float(count), 1.0))

    def close(self) -> None:
        pass


def test_a_bench_measures_the_best_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost()
    monkeypatch.setattr("bench.quality.bench.hosts_of", lambda *_: [host])
    store = Store("toy", CONDITION, tmp_path)
    bench = Bench(Emoji(), CONDITION, 32, store)
    bench.run(lambda _what: None)
    compared = [r for r in store.of("test-32") if r.way == "a"]
    assert [r.setting["count"] for r in compared] == CONDITION.targets
    assert all(uncached_of(store.of("test-32"), r).way == UNCACHED for r in compared)
    assert any("broken" in note and "it cannot" in note for note in bench.notes)
    before = len(host.asked)
    Bench(Emoji(), CONDITION, 32, Store("toy", CONDITION, tmp_path)).run(lambda _what: None)
    assert len(host.asked) == before  # nothing was computed again


def test_a_task_of_a_cluster_tells_each_result_and_measures_no_known_one_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = FakeHost()
    monkeypatch.setattr("bench.quality.bench.hosts_of", lambda *_: [host])
    told = list(cluster.results_of(cluster.Task("emoji", CONDITION, 32, "a", ())))
    compared = [found for found in told if found.way == "a" and found.prompts == "test-32"]
    assert [found.setting["count"] for found in compared] == CONDITION.targets
    host.asked.clear()
    half = tuple(told[: len(told) // 2])
    rest = list(cluster.results_of(cluster.Task("emoji", CONDITION, 32, "a", half)))
    swept = {found.key for found in told if found.way == "a"}
    assert {f.key for f in rest if f.way == "a"} == swept - {f.key for f in half}
    assert [f.setting["count"] for f in rest if f.way == "a"] == [
        count for way, count in host.asked if way == "a"
    ]
    (note,) = cluster.results_of(cluster.Task("emoji", CONDITION, 32, "broken", tuple(told)))
    assert "broken is left out" in note and "it cannot" in note


def test_the_page_names_the_lead(tmp_path: Path) -> None:
    store = Store("toy", CONDITION, tmp_path)
    store.add(result(UNCACHED, 1.0, 100))
    for target in CONDITION.targets:
        store.add(result(FORECAST, target / 28, 40 + target))
        store.add(result(RULE, target / 28, 30 + target))
    page, picture = write("toy", [CONDITION], 2, tmp_path / "page.md", tmp_path)
    text = page.read_text()
    assert "| +10.0 / +10.0, 2 of 2 (published rule) | +10.0 / +10.0, 2 of 2 (" in text
    assert "3 dB or more in 3 of 3 cells, and the minimum is at least as high in 3." in " ".join(
        text.split()
    )
    assert "54.0 / 54.0 / 54.0" in text and picture.stat().st_size > 10_000


def test_labels_do_not_overlap() -> None:
    moved = apart([1.0, 1.1, 5.0, 1.2], gap=0.5)
    assert sorted(moved) == pytest.approx([0.6, 1.1, 1.6, 5.0])
    assert np.argsort(moved).tolist() == np.argsort([1.0, 1.1, 5.0, 1.2]).tolist()
    assert draw({"a": {"forecast, first run": [(0.3, 30.0), (0.5, 40.0)]}}).axes


@pytest.fixture(scope="module")
def host() -> DiffusersHost:
    return DiffusersHost(Emoji(), Condition(9, 3.0, 1.0))


@pytest.mark.parametrize(
    ("way", "setting", "computed"),
    [
        ("plain, fewer steps", {"steps": 3}, 3),
        ("Spectrum", {"warmup": 3, "window": 3.0, "flex": 0.0}, 5),
        ("published rule", {"threshold": 9.0, "max_skip": 2, "retention": 0.0}, 3),
        ("diffusers TaylorSeer", TAYLORSEER, sum(taylorseer_schedule(9, TAYLORSEER))),
    ],
)  # fmt: skip
def test_ways_cost_what_they_compute(
    host: DiffusersHost, way: str, setting: dict, computed: int
) -> None:
    prompts, seeds = Emoji().prompts[:2], [0, 1]
    uncached = host.sample(UNCACHED, {}, prompts, seeds, 2, None)
    assert uncached.cost.computed == 9
    sample = host.sample(way, setting, prompts, seeds, 2, uncached.cost.full)
    assert sample.cost.computed == computed
    assert sample.cost.flops == pytest.approx(uncached.cost.flops * computed / 9)
    assert 0 < np.abs(sample.frames - uncached.frames).mean() < 0.3
    again = host.sample(UNCACHED, {}, prompts, seeds, 2, None)
    np.testing.assert_array_equal(again.frames, uncached.frames)  # nothing stays behind


def test_a_first_block_that_always_runs_is_paid_for(host: DiffusersHost) -> None:
    prompts, seeds = Emoji().prompts[:1], [0]
    uncached = host.sample(UNCACHED, {}, prompts, seeds, 1, None)
    sample = host.sample(
        "diffusers FirstBlockCache", {"threshold": 9.0}, prompts, seeds, 1, uncached.cost.full
    )
    assert sample.cost.computed == 1
    assert 2 / 9 < sample.cost.flops / uncached.cost.flops < 3 / 9  # 1 of 9, and 8 first blocks


def test_cache_dit_decides_for_each_branch(host: DiffusersHost) -> None:
    pytest.importorskip("cache_dit")
    prompts, seeds = Emoji().prompts[:1], [0]
    uncached = host.sample(UNCACHED, {}, prompts, seeds, 1, None)
    setting = {"residual_diff_threshold": 9.0, "max_warmup_steps": 2, "Fn_compute_blocks": 1}
    for way, more in (
        ("cache-dit DBCache", {}),
        ("cache-dit DBCache + TaylorSeer", {"taylorseer_order": 1}),
    ):
        chosen = {**setting, **more}
        sample = host.sample(way, chosen, prompts, seeds, 1, uncached.cost.full)
        assert sample.cost.computed == 2  # the warm-up, of both branches
        assert 0 < np.abs(sample.frames - uncached.frames).mean() < 0.3


@pytest.mark.comfyui
@pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH names no checkout")
@pytest.mark.parametrize(
    ("model", "shift", "apart"),
    # ComfyUI gives Wan and SDXL other noise levels than diffusers does
    [("emoji", 3.0, 1e-4), ("emoji-video", 3.0, 0.02), ("emoji-unet", None, 0.05)],
)
def test_comfyui_gives_the_same_images_and_its_caches_skip(
    model: str, shift: float | None, apart: float
) -> None:
    condition, subject = Condition(9, 3.0, shift), SUBJECTS[model]()
    prompts, seeds = subject.prompts[:1], [0]
    uncached = DiffusersHost(subject, condition).sample(UNCACHED, {}, prompts, seeds, 1, None)
    host = ComfyHost(subject, condition, Path(os.environ["COMFYUI_PATH"]).expanduser())
    with closing(host):
        own = host.sample(UNCACHED, {}, prompts, seeds, 1, None)
        assert np.abs(own.frames - uncached.frames).mean() < apart
        assert own.cost.flops == uncached.cost.flops and own.cost.computed == 9
        for way in host.ways():
            setting = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95}
            sample = host.sample(way, setting, prompts, seeds, 1, own.cost.full)
            assert 1 < sample.cost.computed < 9
            assert 0 < np.abs(sample.frames - own.frames).mean() < 0.1
