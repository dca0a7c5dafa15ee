"""Families without a published curve: calibrated, and planned by the residual of their blocks."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, QwenImage21Transformer2DModel
from torch import Tensor, nn

import magcache
from further import FURTHER
from further_transformers import TRANSFORMERS
from harness import counted, distance
from magcache.blocks.families import family_of, find_stack
from magcache.blocks.stack import BlockStack, StackNotFound
from magcache.curves import Calibration, CalibrationError
from magcache.hosts.diffusers.models import FAMILIES, GUESSES
from tiny import Tiny

STEPS = 9


def flat(output: Any) -> Tensor:
    """All values of a pipeline's or a model's output, which may be of several streams."""
    if isinstance(output, Tensor):
        return output.flatten()
    parts = output.values() if isinstance(output, dict) else output
    return torch.cat([flat(part) for part in parts if part is not None])


def run(pipe: DiffusionPipeline, tiny: Tiny, steps: int = STEPS) -> Tensor:
    return flat(pipe(**tiny.inputs(pipe, steps=steps)))


def errors(pipe: DiffusionPipeline, tiny: Tiny, stack: BlockStack) -> list[float]:
    """Of each model call of a sampling, skipped with its own residual beside computing it."""
    transformer, found = pipe.transformer, []
    forward = transformer.forward

    def both(*args: Any, **kwargs: Any) -> Any:
        full, residual = stack.compute(lambda: forward(*args, **kwargs))
        assert residual is not None, stack.problem
        skipped = flat(stack.skip(lambda: forward(*args, **kwargs), residual))
        found.append(distance(skipped, flat(full)))
        return full

    transformer.forward = both
    try:
        run(pipe, tiny, 2)
    finally:
        del transformer.forward
    return found


@pytest.mark.parametrize("tiny", FURTHER.values(), ids=FURTHER)
def test_a_skip_with_the_true_residual_gives_the_models_output(tiny: Tiny) -> None:
    pipe = tiny.build()
    assert family_of(pipe.transformer, FAMILIES), "it is in the table"
    stack = find_stack(pipe.transformer, FAMILIES)
    found = errors(pipe, tiny, stack)
    assert len(found) >= 2 and max(found) <= 1e-6
    assert stack.depth == len(tiny.blocks(pipe.transformer))


def calibrated(pipe: DiffusionPipeline, tiny: Tiny) -> tuple[Tensor, Calibration]:
    with magcache.apply(pipe, calibrate=True) as applied:
        return run(pipe, tiny), applied.calibration()


@pytest.mark.parametrize("tiny", FURTHER.values(), ids=FURTHER)
def test_a_calibrated_model_is_accelerated(tiny: Tiny) -> None:
    pipe = tiny.build()
    plain = run(pipe, tiny)
    measured, calibration = calibrated(pipe, tiny)
    assert torch.equal(measured, plain)
    with counted(pipe, tiny) as blocks, magcache.apply(pipe, calibration=calibration, speedup=1.5):
        output = run(pipe, tiny)
    schedule = blocks.schedule(tiny.calls_per_evaluation[True])
    assert "?" not in schedule and schedule.count(".") == STEPS - int(STEPS / 1.5)
    assert 0 < distance(output, plain) < 0.1


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_by_itself_fits(name: str) -> None:
    torch.manual_seed(0)
    try:
        model, inputs = TRANSFORMERS[name]()
    except AttributeError as error:  # the newest diffusers want Python 3.11
        pytest.skip(f"the installed diffusers does not have it: {error}")
    model.eval()
    for weight in model.parameters():
        if not weight.any():  # else a block would add nothing
            nn.init.normal_(weight, std=0.1)
    stack = find_stack(model, FAMILIES)
    with torch.no_grad():
        full, residual = stack.compute(lambda: model(**inputs))
        assert residual is not None, stack.problem
        skipped = stack.skip(lambda: model(**inputs), residual)
        nothing = stack.skip(lambda: model(**inputs), tuple(0 * part for part in residual))
    assert distance(flat(skipped), flat(full)) <= 1e-6 < distance(flat(nothing), flat(full))


def test_a_class_of_several_streams_that_is_not_in_the_table_runs_uncached_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is guessed finds its blocks and the video's head, but not the audio's."""
    tiny = FURTHER["ltx2"]
    pipe = tiny.build()
    plain = run(pipe, tiny)
    monkeypatch.delitem(FAMILIES, "LTX2VideoTransformer3DModel")
    assert find_stack(pipe.transformer, FAMILIES, GUESSES).depth == 3
    with caplog.at_level(logging.WARNING), magcache.apply(pipe, calibrate=True) as applied:
        assert torch.equal(run(pipe, tiny), plain)
        with pytest.raises(CalibrationError, match="nothing was measured"):
            applied.calibration()
    assert "skipping with the true residual changes the model's output" in caplog.text


def test_a_class_that_is_not_in_the_table_is_calibrated_if_the_guess_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny = FURTHER["sd3"]
    pipe = tiny.build()
    monkeypatch.delitem(FAMILIES, "SD3Transformer2DModel")
    _, calibration = calibrated(pipe, tiny)
    with counted(pipe, tiny) as blocks, magcache.apply(pipe, calibration=calibration, speedup=1.5):
        run(pipe, tiny)
    assert blocks.schedule().count(".") == 3


def test_a_class_that_is_not_in_the_table_and_keeps_keys_and_values_is_left_alone() -> None:
    model = QwenImage21Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, attention_head_dim=16,
        num_attention_heads=1, context_in_dim=8, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    with pytest.raises(StackNotFound, match="may store what later calls attend to"):
        find_stack(model, FAMILIES, GUESSES)
