"""Mending: what a gap did wrong, put right by the evaluation behind it."""

from collections.abc import Sequence

import pytest
import torch

from magcache.curves.gram import GuidedGrams
from magcache.curves.magnitude import Trajectory, shifted_sigmas
from magcache.decide import Course, Reason, Target
from magcache.decide.by_plan import PlanDecider
from magcache.decide.mending import Mender
from magcache.run import Run, Storage
from tests.calibrations import random_gram
from tests.toys import CPU, Toy, tokens, toy_stack

SIGMAS = [*shifted_sigmas(20), 0.0]
GRAMS = {"cond": random_gram(50, seed=1)}


def line(cached: Sequence[float], sigma: float) -> list[float]:
    """The weights of the parabola or line through the cached residuals, the newest two or three."""
    used = cached[-3:]
    weights = []
    for at in used:
        weight = 1.0
        for other in used:
            weight *= 1.0 if other == at else (sigma - other) / (at - other)
        weights.append(weight)
    return [0.0] * (len(cached) - len(used)) + weights


def curved(sigma: float) -> float:
    """A residual that a line foretells wrongly and a parabola rightly."""
    return 2 + 3 * sigma - 5 * sigma**2


def test_the_share_of_the_gaps_error_is_added_to_the_step_behind_it() -> None:
    sigmas = [*shifted_sigmas(28), 0.0]
    cached, gap, here = sigmas[4:6], sigmas[6:8], sigmas[8]
    factors = Mender(sigmas).factors(line, cached, gap, here, following=0)
    assert factors is not None
    added = sum(f * curved(at) for f, at in zip(factors, [*cached, here], strict=True))
    wrong = 0.0
    for place in (6, 7):
        guess = sum(w * curved(a) for w, a in zip(line(cached, sigmas[place]), cached, strict=True))
        wrong += (sigmas[place] - sigmas[place + 1]) * (curved(sigmas[place]) - guess)
    before, after = 1 - sigmas[8] / sigmas[6], 1 - sigmas[9] / sigmas[8]
    assert added * (here - sigmas[9]) == pytest.approx((1 - after - before / 2) * wrong)


def test_the_more_is_skipped_around_it_the_less_is_mended() -> None:
    mender, cached = Mender(SIGMAS), SIGMAS[4:6]
    sizes = []
    for count in (1, 2):
        factors = mender.factors(line, cached, SIGMAS[6:7], SIGMAS[7], following=count)
        assert factors is not None
        sizes.append(abs(factors[-1]))
    assert sizes[1] < sizes[0] / 3
    assert mender.factors(line, cached, SIGMAS[6:7], SIGMAS[7], following=4) is None
    assert mender.factors(line, cached, SIGMAS[6:10], SIGMAS[10], following=0) is None


def test_without_a_known_next_gap_it_is_taken_to_be_as_long() -> None:
    arguments = (line, SIGMAS[4:6], SIGMAS[6:8], SIGMAS[8])
    mender = Mender(SIGMAS)
    assert mender.factors(*arguments) == mender.factors(*arguments, following=2)


@pytest.mark.parametrize(
    ("gap", "sigma"),
    [
        ([], SIGMAS[8]),
        ([SIGMAS[6]], SIGMAS[8]),  # 7 is missing
        ([SIGMAS[6] * 1.01, SIGMAS[7]], SIGMAS[8]),
        ([SIGMAS[7]], (SIGMAS[8] + SIGMAS[9]) / 2),
        ([SIGMAS[18]], SIGMAS[19]),  # the last evaluation: the model itself mends all
    ],
)
def test_nothing_is_mended_off_the_runs_own_steps_or_at_its_end(
    gap: list[float], sigma: float
) -> None:
    assert Mender(SIGMAS).factors(line, SIGMAS[4:6], gap, sigma) is None


def sampled(mender: Mender | None, budget: int | None = None, steps: int = 20) -> tuple[Run, list]:
    """A run of a toy model, and its outputs."""
    toy = Toy()
    decider = PlanDecider(Target(speedup=2), Course.of_steps(Trajectory(SIGMAS[:-1])), GRAMS)
    run = Run(decider, toy_stack(toy), Storage(budget=budget), mender=mender)
    outputs = []
    for step, sigma in enumerate(SIGMAS[:steps]):
        run.begin(sigma, step, last=step == 19)
        outputs.append(run.call("cond", "cond", CPU, lambda s=sigma: toy(tokens() * (1 + s))))
    return run, outputs


def test_a_run_mends_exactly_what_the_factors_say() -> None:
    run, mended = sampled(Mender(SIGMAS))
    plain, outputs = sampled(None)
    skipped = [e.reason is Reason.SKIPPED for e in run.evaluations]
    assert [e.reason for e in plain.evaluations] == [e.reason for e in run.evaluations]
    assert 0 < run.mended <= sum(skipped) and plain.mended == 0
    for evaluation, one, other in zip(run.evaluations, mended, outputs, strict=True):
        assert torch.equal(one, other) is not evaluation.mended


def test_the_mended_output_is_that_of_the_sum_of_residuals() -> None:
    run, outputs = sampled(Mender(SIGMAS))
    place = next(i for i, e in enumerate(run.evaluations) if e.mended)
    computed = [i for i in range(place) if run.evaluations[i].reason is not Reason.SKIPPED][-2:]
    gap = SIGMAS[computed[-1] + 1 : place]
    toy = Toy()
    stack = toy_stack(toy)
    known = []
    for i in [*computed, place]:
        stack.compute(lambda i=i: toy(tokens() * (1 + SIGMAS[i])))  # learns where the base is
        known.append(stack.compute(lambda i=i: toy(tokens() * (1 + SIGMAS[i])))[1])
    schedule = [e.reason is Reason.SKIPPED for e in run.evaluations]
    following = schedule[place + 1 :].index(False)
    predict = lambda at, s: GuidedGrams(GRAMS).predict(["cond"], s, at)[0]  # noqa: E731
    cached = [SIGMAS[i] for i in computed]
    factors = Mender(SIGMAS).factors(predict, cached, gap, SIGMAS[place], following)
    assert factors is not None
    factors[-1] += 1
    total = sum(f * r[0] for f, r in zip(factors, known, strict=True) if r)
    want = stack.skip(lambda: toy(tokens() * (1 + SIGMAS[place])), (total,))
    assert torch.allclose(outputs[place], want, atol=1e-5)


def test_a_budget_without_room_for_one_residual_more_mends_nothing() -> None:
    free, _ = sampled(Mender(SIGMAS))
    one = free.cache.peak_bytes // 3
    tight, _ = sampled(Mender(SIGMAS), budget=2 * one)
    assert free.mended > 0 and tight.mended == 0
    assert tight.cache.peak_bytes == 2 * one
