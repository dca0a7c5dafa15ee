"""The model's output as the place: a skipped call runs nothing of the model."""

import torch

from magcache.blocks import ModelOutput, OutputCall, Path
from magcache.decide import Reason, Rule
from magcache.run import Run
from tests.toys import CPU, decider_of, even, flat_curve

PARTS = {"m": ("mean",), "d": ("difference",)}


class Model:
    """Returns a cond of 3·value and an uncond of value, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, value: float) -> list[torch.Tensor]:
        self.calls += 1
        return [torch.full((1, 4), 3 * value), torch.full((1, 4), value)]


def call_of(model: Model, value: float) -> OutputCall:
    def output(signals: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        mean, difference = signals
        return [mean + difference / 2, mean - difference / 2]

    return OutputCall(
        lambda: model(value), lambda out: ((out[0] + out[1]) / 2, out[0] - out[1]), output
    )


def output_run() -> Run:
    """Computes one evaluation and skips two, over and over."""
    curves = {"mean": flat_curve(), "difference": flat_curve()}
    return Run(decider_of(Rule(1.0, 2, 0.0), curves, even(10)), ModelOutput())


def evaluate(run: Run, model: Model, step: int, fresh: bool = False) -> tuple[float, float]:
    run.begin(1 - step / 10, step, fresh=fresh)
    cond, uncond = run.call_parts(PARTS, CPU, call_of(model, step + 1.0))
    return float(cond[0, 0]), float(uncond[0, 0])


def test_a_skipped_call_follows_from_what_is_held() -> None:
    run, model = output_run(), Model()
    assert [evaluate(run, model, step) for step in range(4)] == [(3, 1), (3, 1), (3, 1), (12, 4)]
    assert model.calls == 2 and run.skipped == 2
    assert run.evaluations[1].computed == {"m": False, "d": False}


def test_nothing_from_before_a_fresh_evaluation_is_used() -> None:
    run, model = output_run(), Model()
    evaluate(run, model, 0)
    assert evaluate(run, model, 1, fresh=True) == (6, 2)
    assert run.evaluations[1].reason is Reason.NO_RESIDUAL
    assert evaluate(run, model, 2) == (6, 2)


def test_where_a_part_is_new_the_whole_call_is_computed() -> None:
    run, model = output_run(), Model()
    run.begin(1.0, 0)
    run.call("m", "mean", CPU, OutputCall(lambda: model(1.0)[1], lambda o: (o,), lambda s: s[0]))
    assert evaluate(run, model, 1) == (6, 2)
    assert run.evaluations[1].computed == {"m": True, "d": True}


def test_a_run_frees_what_it_holds() -> None:
    run, model = output_run(), Model()
    evaluate(run, model, 0)
    assert run.cache.bytes_held == 2 * 16
    run.close()
    assert run.cache.bytes_held == 0


def test_the_level_is_what_decides_and_the_report_has_sigma() -> None:
    run, model = output_run(), Model()
    run.begin(3.0, 0, level=0.75)
    run.call_parts(PARTS, CPU, call_of(model, 1.0))
    assert run.cache.sigmas("m") == [0.75]
    assert (run.evaluations[0].sigma, run.evaluations[0].place) == (3.0, 0.75)


def walked(*levels: float) -> list[float]:
    """Where the path is, for velocities of 2, 3, ..., while the sampler's latent is far away."""
    path, found = Path(), []
    for level in levels:
        path.begin(torch.tensor([100.0]) if found else torch.tensor([level]), level)
        assert path.x is not None
        found.append(float(path.x))
        path.end(path.x - level * (1 + len(found)))
    return found


def test_the_path_is_eulers_whatever_the_sampler_adds() -> None:
    assert walked(1.0, 0.5, 0.25) == [1.0, 0.0, -0.75]


def test_the_path_returns_to_a_level_with_the_sampler() -> None:
    assert walked(1.0, 0.5, 0.25, 0.5, 0.25)[3:] == [0.0, -1.25]


def test_a_level_raised_by_noise_is_no_return() -> None:
    assert walked(1.0, 0.5, 0.75)[2] == 0.75
