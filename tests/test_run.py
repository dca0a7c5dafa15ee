"""One sampling run on the toy model (80x with blocks, residual 7x), evaluation by evaluation."""

import gc
import logging
import threading
import weakref
from contextlib import closing
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from magcache.calibrate.calibrator import Calibrator
from magcache.curves.magnitude import MagnitudeCurve
from magcache.decide import Course, Reason, Rule, decider_for
from magcache.run import Run, Storage
from tests.toys import (
    CPU,
    Double,
    Tenfold,
    Toy,
    block_calls,
    decider_of,
    dry_calls,
    even,
    tokens,
    toy_run,
    toy_stack,
)


def evaluate(run: Run, model: nn.Module, step: int, value: float = 1.0, **branches: Tensor) -> Any:
    """One evaluation of a ten-step run: "cond" with `value`, or the given branches."""
    inputs = branches or {"cond": tokens(value)}
    run.begin(1 - step / 10, step, last=step == 9)
    found = [run.call((b, tuple(x.shape)), b, CPU, lambda x=x: model(x)) for b, x in inputs.items()]
    return found[0] if len(found) == 1 else found


def symbols(run: Run) -> str:
    return "".join("." if evaluation.skipped else "#" for evaluation in run.evaluations)


def reasons(run: Run) -> list[Reason]:
    return [evaluation.reason for evaluation in run.evaluations]


class Broken(Toy):
    """One of its calls with blocks, counted from 0, adds NaN or Inf after them."""

    def __init__(self, value: float, call: int = 0) -> None:
        super().__init__()
        self.values = {call: value}
        self.computed = 0

    def forward(self, x: Tensor) -> Tensor:
        if len(self.blocks):
            for block in self.blocks:
                x = block(x)
            x = x + self.values.get(self.computed, 0)
            self.computed += 1
        return self.head(x)


def test_a_run_computes_one_and_skips_two_over_and_over() -> None:
    model = Toy()
    run = toy_run(model)
    for step in range(10):
        evaluate(run, model, step)
    assert symbols(run) == "#..#..#..#"
    assert run.skipped == 6 and block_calls(model) == 4 * 3
    assert [e.step for e in run.evaluations] == list(range(10))
    assert [e.sigma for e in run.evaluations] == pytest.approx([1 - s / 10 for s in range(10)])


def test_a_skipped_evaluation_reuses_the_last_residual() -> None:
    model = Toy()
    run = toy_run(model)
    outputs = [evaluate(run, model, step, value=step + 1.0)[0, 0, 0] for step in range(6)]
    # Computed 80·1, then 10·(2 + 7·1) and 10·(3 + 7·1); computed 80·4, then + 7·4.
    assert outputs == [80, 90, 100, 320, 330, 340]


def test_each_branch_reuses_its_own_residual() -> None:
    model = Toy()
    run = toy_run(model)
    evaluate(run, model, 0, cond=tokens(1), uncond=tokens(2))
    cond, uncond = evaluate(run, model, 1, cond=tokens(1), uncond=tokens(2))
    assert cond[0, 0, 0] == 80 and uncond[0, 0, 0] == 160
    skipped = {("cond", (1, 2, 3)): False, ("uncond", (1, 2, 3)): False}
    assert run.evaluations[1].computed == skipped


def test_one_branch_that_drifts_computes_both() -> None:
    model = Toy()
    curves = {
        "cond": MagnitudeCurve.from_ratios([1, 1, 1], [1.0, 0.9, 0.8]),
        "uncond": MagnitudeCurve.from_ratios([1, 1, 0.5], [1.0, 0.9, 0.8]),
    }
    run = Run(decider_of(Rule(0.1, 5, 0), curves, even(10)), toy_stack(model))
    for step in range(3):
        evaluate(run, model, step, cond=tokens(1), uncond=tokens(2))
    assert symbols(run) == "#.#" and reasons(run)[2] is Reason.THRESHOLD
    assert all(run.evaluations[2].computed.values())


def test_a_new_branch_is_computed_alone() -> None:
    model = Toy()
    run = toy_run(model)
    evaluate(run, model, 0, cond=tokens(1))
    _, uncond = evaluate(run, model, 1, cond=tokens(1), uncond=tokens(2))
    assert uncond[0, 0, 0] == 160
    assert list(run.evaluations[1].computed.values()) == [False, True]
    assert block_calls(model) == 2 * 3
    assert symbols(run) == "##" and run.evaluations[1].outcome is Reason.NO_RESIDUAL
    evaluate(run, model, 2, cond=tokens(1), uncond=tokens(2))
    assert symbols(run) == "##."


def test_a_changed_shape_is_computed() -> None:
    model = Toy()
    run = toy_run(model)
    evaluate(run, model, 0)
    output = evaluate(run, model, 1, cond=tokens(2, count=5))
    assert output.shape == (1, 5, 3) and output[0, 0, 0] == 160
    assert symbols(run) == "##"


def test_a_changed_shape_under_the_same_name_is_computed_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Toy()
    run = toy_run(model)
    run.begin(1.0, 0)
    run.call("cond", "cond", CPU, lambda: model(tokens(1)))
    run.begin(0.9, 1)
    output = run.call("cond", "cond", CPU, lambda: model(tokens(2, count=5)))
    assert output[0, 0, 0] == 160 and symbols(run) == "##"
    assert "does not fit the head's (1, 5, 3), so the evaluation was computed" in caplog.text
    run.begin(0.8, 2)
    assert run.call("cond", "cond", CPU, lambda: model(tokens(2, count=5)))[0, 0, 0] == 160
    assert symbols(run) == "##."


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_broken_residual_is_dropped_and_the_next_evaluation_computed(
    value: float, caplog: pytest.LogCaptureFixture
) -> None:
    model = Broken(value)
    run = toy_run(model)
    for step in range(4):
        output = evaluate(run, model, step)
        assert step == 0 or output[0, 0, 0] == 80
    assert symbols(run) == "##.."
    assert reasons(run)[1] is Reason.NO_RESIDUAL
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    (said,) = run.warnings
    assert [w.getMessage() for w in warnings] == [f"MagCache (toy): {said}"]
    assert said.startswith("a residual held NaN or Inf") and "try bfloat16 or float32" in said


def test_one_broken_value_among_many_is_noticed() -> None:
    class OneNaN(Toy):
        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            if len(self.blocks):
                x[0, 17, 3] = float("nan")
            return self.head(x)

    model = OneNaN()
    run = toy_run(model)
    for step in range(3):
        evaluate(run, model, step, cond=tokens(1, count=64, channels=8))
    assert symbols(run) == "###"


def test_a_broken_residual_of_one_branch_computes_both() -> None:
    """Else the other's drift would be forgotten with the accumulators."""
    model = Broken(float("nan"), call=1)  # the second call of evaluation 0 is uncond's
    run = toy_run(model)
    for step in range(5):
        evaluate(run, model, step, cond=tokens(1), uncond=tokens(2))
    assert symbols(run) == "##..#"
    assert all(run.evaluations[1].computed.values())


def test_repeated_trouble_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    class NaNFromBlocks(Double):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * float("nan")

    model = Toy(NaNFromBlocks)
    run = toy_run(model)
    for step in range(5):
        evaluate(run, model, step)
    assert symbols(run) == "#####" and len(caplog.records) == 1


def test_the_last_evaluation_keeps_nothing() -> None:
    model = Toy()
    run = toy_run(model)
    for step in (0, 1, 9):
        evaluate(run, model, step, cond=tokens(1), uncond=tokens(2))
    assert len(run.cache) == 0 and run.cache.bytes_held == 0
    assert run.cache.peak_bytes == 2 * 2 * 3 * 4


@pytest.mark.parametrize("last", [7, 9], ids=["skipped", "computed"])
def test_the_last_evaluation_keeps_nothing_skipped_or_computed(last: int) -> None:
    model = Toy()
    run = toy_run(model)
    for step in range(last + 1):
        run.begin(1 - step / 10, step, last=step == last)
        run.call("cond", "cond", CPU, lambda: model(tokens()))
    assert symbols(run)[-1] == (".", "#")[last == 9]
    assert len(run.cache) == 0


def test_a_run_of_one_evaluation_never_keeps_anything() -> None:
    model = Toy()
    run = toy_run(model)
    evaluate(run, model, 9)
    assert run.cache.peak_bytes == 0


def test_close_frees_every_residual() -> None:
    model = Toy()
    run = toy_run(model)
    evaluate(run, model, 0, cond=tokens(1), uncond=tokens(2))
    kept = [weakref.ref(run.cache.get(b)[0][0]) for b in list(run.cache._entries)]
    assert len(kept) == 2 and all(reference() is not None for reference in kept)
    run.close()
    gc.collect()
    assert [reference() for reference in kept] == [None, None]
    assert run.cache.bytes_held == 0


def test_closing_closes_after_an_exception_too() -> None:
    model = Toy()
    run = toy_run(model)
    evaluate(run, model, 0)
    assert len(run.cache) == 1
    with pytest.raises(ZeroDivisionError), closing(run):
        raise ZeroDivisionError
    assert len(run.cache) == 0


def test_a_closed_run_computes() -> None:
    model = Toy()
    run = toy_run(model)
    evaluate(run, model, 0)
    run.close()
    assert evaluate(run, model, 1)[0, 0, 0] == 80
    assert reasons(run)[1] is Reason.NO_RESIDUAL
    evaluate(run, model, 2)
    assert symbols(run) == "##."


@pytest.mark.parametrize("step", [0, 1, 3], ids=["first", "skipped", "computed"])
def test_an_exception_in_forward_passes_and_is_recorded(step: int) -> None:
    model = Toy()
    run = toy_run(model)
    for earlier in range(step):
        evaluate(run, model, earlier)
    handle = model.head.register_forward_pre_hook(_fail)
    with pytest.raises(ZeroDivisionError), closing(run):
        evaluate(run, model, step)
    handle.remove()
    assert len(run.evaluations) == step + 1 and len(run.cache) == 0
    fresh = toy_run(model)
    assert evaluate(fresh, model, 0)[0, 0, 0] == 80


def _fail(*_: Any) -> None:
    raise ZeroDivisionError


def test_the_old_residual_is_freed_before_the_next_is_computed() -> None:
    class Watching(Double):
        def forward(self, x: Tensor) -> Tensor:
            held.append(len(run.cache))
            return super().forward(x)

    held: list[int] = []
    model = Toy(Watching)
    run = toy_run(model)
    for step in range(4):
        evaluate(run, model, step)
    assert held == [0] * 6  # three blocks, of evaluations 0 and 3


@pytest.mark.parametrize(("threshold", "max_skip"), [(0, 2), (0.1, 0)])
def test_a_rule_that_skips_nothing_leaves_the_model_alone(threshold: float, max_skip: int) -> None:
    class Untouched(Toy):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.head._forward_pre_hooks and type(self.blocks[0]) is Double
            return super().forward(x)

    model = Untouched()
    run = toy_run(model, threshold=threshold, max_skip=max_skip)
    for step in range(5):
        assert evaluate(run, model, step, value=step)[0, 0, 0] == 80 * step
    assert symbols(run) == "#####" and reasons(run)[1:] == [Reason.OFF] * 4
    assert run.cache.peak_bytes == 0


def test_a_model_that_does_not_fit_runs_uncached_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class NeedsBlocks(Toy):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.blocks[0](x))

    model = NeedsBlocks()
    run = toy_run(model)
    for step in range(5):
        assert evaluate(run, model, step)[0, 0, 0] == 20
    assert symbols(run) == "#####" and block_calls(model) == 5
    assert dry_calls(run.stack) == 1  # it is not tried again
    assert len(caplog.records) == 1
    assert "the rest of this run is uncached: the model fails without its blocks" in caplog.text


@pytest.mark.parametrize("store", ["device", "offload"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float8_e4m3fn])
def test_storage_settings_reach_the_cache(store: Any, dtype: torch.dtype | None) -> None:
    model = Toy()
    run = toy_run(model, storage=Storage(store, dtype))
    outputs = [evaluate(run, model, step)[0, 0, 0] for step in range(3)]
    assert outputs == [80, 80, 80]  # 7 has three bits: exact in fp8
    assert (run.cache.store, run.cache.dtype) == (store, dtype)


def test_the_residual_of_each_skipped_call_is_fetched_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Toy()
    run = toy_run(model, storage=Storage("offload"))
    fetched: list[str] = []
    prefetch = run.cache.prefetch
    monkeypatch.setattr(
        run.cache, "prefetch", lambda branch: (fetched.append(branch[0]), prefetch(branch))
    )
    evaluate(run, model, 0, cond=tokens(1), uncond=tokens(2))
    assert fetched == []
    run.begin(0.9, 1)
    assert fetched == ["cond"]  # before the first call
    run.call(("cond", (1, 2, 3)), "cond", CPU, lambda: model(tokens(1)))
    assert fetched[-1] == "uncond"  # while the first is under way


def test_a_branch_that_does_not_come_again_is_freed_and_decides_no_more() -> None:
    model = Toy()
    run = toy_run(model)
    evaluate(run, model, 0, cond=tokens(1), uncond=tokens(2))
    evaluate(run, model, 1, cond=tokens(1))
    evaluate(run, model, 2, cond=tokens(1))
    assert len(run.cache) == 1
    assert [dict(e.computed) for e in run.evaluations[1:]] == [{("cond", (1, 2, 3)): False}] * 2


def test_a_batch_of_two_branches_is_measured_as_two() -> None:
    calibrator = Calibrator()
    for sigma, values in ((1.0, (1.0, 1.0)), (0.9, (2.0, 4.0))):
        batch = torch.cat([tokens(value) for value in values])
        calibrator.add("both", ("uncond", "cond"), sigma, (batch,))
    measured = calibrator.finish()
    assert measured["uncond"].ratios == pytest.approx([1, 2])
    assert measured["cond"].ratios == pytest.approx([1, 4])


def test_evaluations_are_timed() -> None:
    model = Toy()
    run = toy_run(model)
    evaluate(run, model, 0, cond=tokens(1), uncond=tokens(2))
    (evaluation,) = run.evaluations
    assert 0 < evaluation.seconds < 5
    assert len(evaluation._watches) == 2


def test_two_runs_on_clones_share_nothing() -> None:
    first, second = Toy(), Toy()
    second.blocks, second.head = first.blocks, first.head  # a clone shares its modules
    runs = [toy_run(first), toy_run(second)]
    for step in range(3):
        outputs = [
            evaluate(run, model, step, value=value)[0, 0, 0]
            for run, model, value in zip(runs, (first, second), (1.0, 2.0), strict=True)
        ]
        assert outputs == [80, 160]
    assert [symbols(run) for run in runs] == ["#..", "#.."]


def test_two_runs_in_two_threads_share_nothing() -> None:
    model = Toy()
    runs = [toy_run(model), toy_run(model)]
    outputs: list[list[float]] = [[], []]

    def sample(index: int) -> None:
        for step in range(10):
            found = evaluate(runs[index], model, step, value=index + 1.0)
            outputs[index].append(found[0, 0, 0].item())

    threads = [threading.Thread(target=sample, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == [[80] * 10, [160] * 10]
    assert [symbols(run) for run in runs] == ["#..#..#..#"] * 2


class Scheduled(nn.Module):
    """Its blocks' residual is what the test says, token by token: shape (tokens, channels)."""

    def __init__(self, *residuals: list[list[float]]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Adding(*residuals)])
        self.head = Tenfold()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Adding(nn.Module):
    def __init__(self, *residuals: list[list[float]]) -> None:
        super().__init__()
        self.residuals = [torch.tensor(residual)[None] for residual in residuals]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residuals.pop(0).to(x.dtype)


def calibrate(model: nn.Module, dtype: torch.dtype = torch.float32) -> Calibrator:
    """Two evaluations of two tokens with two channels, at σ 1 and 0.9."""
    calibrator = Calibrator()
    run = Run(decider_for(None, Course.of_steps(even(10))), toy_stack(model), calibrator=calibrator)
    with closing(run):
        for step in range(2):
            evaluate(run, model, step, cond=torch.zeros(1, 2, 2, dtype=dtype))
    assert reasons(run) == [Reason.CALIBRATION] * 2 and symbols(run) == "##"
    return calibrator


def test_a_calibration_measures_ratio_spread_and_cosine_distance() -> None:
    # Token 1: norm 5 to 10, same direction. Token 2: norm 2 to 2, turned by a right angle.
    model = Scheduled([[3, 4], [2, 0]], [[6, 8], [0, 2]])
    measured = calibrate(model).finish()["cond"]
    assert measured.sigmas == [1.0, 0.9]
    assert measured.ratios == pytest.approx([1, 1.5])  # mean of 2 and 1
    assert measured.spreads == pytest.approx([0, 0.5])
    assert measured.cosine_distances == pytest.approx([0, 0.5])  # mean of 0 and 1


def test_a_calibration_in_bfloat16_measures_in_float32() -> None:
    # Of two tokens one grows from 1 to the next bfloat16, 1 + 2⁻⁷. The mean is no bfloat16.
    model = Scheduled([[1, 0], [1, 0]], [[1 + 2**-7, 0], [1, 0]])
    measured = calibrate(model, torch.bfloat16).finish()["cond"]
    assert measured.ratios[1] == pytest.approx(1 + 2**-8, abs=1e-7)


def test_a_calibration_skips_nothing_whatever_the_rule() -> None:
    model = Toy()
    calibrator = Calibrator()
    run = toy_run(model)
    run = Run(run.decider, run.stack, calibrator=calibrator)
    for step in range(10):
        evaluate(run, model, step)
    assert symbols(run) == "#" * 10 and block_calls(model) == 30
    assert calibrator.finish()["cond"].ratios == pytest.approx([1.0] * 10)
    assert run.cache.peak_bytes == 0


def test_a_calibration_keeps_branches_apart() -> None:
    model = Toy()
    calibrator = Calibrator()
    run = Run(toy_run(model).decider, toy_stack(model), calibrator=calibrator)
    evaluate(run, model, 0, cond=tokens(1), uncond=tokens(1))
    evaluate(run, model, 1, cond=tokens(2), uncond=tokens(4))
    measured = calibrator.finish()
    assert measured["cond"].ratios == pytest.approx([1, 2])
    assert measured["uncond"].ratios == pytest.approx([1, 4])


def test_of_several_branches_of_one_curve_the_first_is_taken() -> None:
    calibrator = Calibrator()
    for sigma, values in ((1.0, (1, 1)), (0.9, (2, 4))):
        for window, value in enumerate(values):
            calibrator.add(window, ("cond",), sigma, (tokens(value),))
    assert calibrator.finish()["cond"].ratios == pytest.approx([1, 2])


def test_a_calibration_weighs_the_tokens_of_all_streams_alike() -> None:
    calibrator = Calibrator()
    calibrator.add("cond", ("cond",), 1.0, (tokens(1, count=3), tokens(1, count=1)))
    calibrator.add("cond", ("cond",), 0.9, (tokens(1, count=3), tokens(5, count=1)))
    assert calibrator.finish()["cond"].ratios == pytest.approx([1, 2])  # (1 + 1 + 1 + 5) / 4


def test_a_closed_calibration_keeps_its_figures_and_no_residual() -> None:
    model = Toy()
    calibrator = Calibrator()
    run = Run(toy_run(model).decider, toy_stack(model), calibrator=calibrator)
    evaluate(run, model, 0)
    (kept,) = [weakref.ref(tensor) for (tensor,) in calibrator._last.values()]
    run.close()
    gc.collect()
    assert kept() is None
    assert calibrator.finish()["cond"].ratios == [1.0]


class Shifted(Toy):
    """Adds `extra` between the blocks and the head, as a post-block patch does."""

    extra = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x + self.extra)


def test_a_run_checks_the_base_anew_so_a_new_patch_is_not_counted_twice() -> None:
    model = Shifted()
    stack = toy_stack(model)
    for extra in (0.0, 5.0):
        model.extra = extra
        run = Run(toy_run().decider, stack)
        full = evaluate(run, model, 0)
        assert torch.equal(evaluate(run, model, 1), full)  # 10 · (8 + extra)
        assert symbols(run) == "#."


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError, InterruptedError])
def test_an_interrupt_in_a_dry_call_reaches_the_host(error: type[BaseException]) -> None:
    model = Toy()
    run = toy_run(model)
    calls = iter([None, error("stop")])

    def interrupted(x: torch.Tensor) -> torch.Tensor:
        if failure := next(calls):
            raise failure
        return model(x)

    run.begin(1.0, 0)
    with pytest.raises(error):
        run.call("cond", "cond", CPU, lambda: interrupted(tokens()))
    assert len(model.blocks) == 3
