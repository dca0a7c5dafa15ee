"""Nothing bad is stored: neither measured nor learned, and the user is told what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers as dfs
import pytest
import torch
from diffusers import DiffusionPipeline

import magcache
from magcache import cli
from magcache.curves import CalibrationError
from magcache.emoji import image
from tiny import TINY, run

FLUX, WAN = TINY["flux"], TINY["wan2.1_t2v"]
STEPS = 12


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAGCACHE_HOME", str(tmp_path))
    return tmp_path


def stored(home: Path) -> list[Path]:
    return list(home.rglob("*.json"))


@contextlib.contextmanager
def spoiling(pipe: DiffusionPipeline, call: int, value: float, entry: Any = ...) -> Iterator[None]:
    """Has one call of the model return a value at one of its entries, or everywhere."""
    calls = iter(range(10_000))

    def spoil(_module: Any, _args: Any, output: Any) -> Any:
        if next(calls) != call:
            return output
        tensor = output[0].clone()
        tensor[entry] = value
        return (tensor,)

    own = pipe.transformer.proj_out.register_forward_hook(
        lambda module, args, output: spoil(module, args, (output,))[0]
    )
    try:
        yield
    finally:
        own.remove()


def forecast(pipe: DiffusionPipeline, tiny: Any = FLUX, **options: Any) -> Any:
    with magcache.apply(pipe, speedup=1.5) as applied:
        run(pipe, **tiny.inputs(pipe, steps=STEPS, **options))
    return applied.report()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("call", [0, 1, 2, "last"])
def test_a_run_that_met_no_number_teaches_nothing(
    value: float, call: int | str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of one entry of one image, of one branch; also where nothing is computed behind it."""
    pipe = FLUX.build()
    computed = STEPS - forecast(pipe).skipped
    (book,) = stored(home)
    before = book.read_bytes()
    place = computed - 1 if call == "last" else int(call)
    with spoiling(pipe, place, value, (0, 1, 2)):
        report = forecast(pipe)
    assert book.read_bytes() == before
    (said,) = [note for note in report.warnings if "NaN or Inf" in note]
    assert "try bfloat16 or float32" in said and caplog.text.count("NaN or Inf") == 1


def test_a_broken_branch_teaches_nothing(home: Path) -> None:
    pipe = WAN.build()
    with spoiling(pipe, 3, float("nan"), (0, 0)):  # uncond's, of the second evaluation
        forecast(pipe, WAN)
    assert not stored(home)


def test_an_output_of_nothing_teaches_nothing(home: Path) -> None:
    pipe = FLUX.build()
    with spoiling(pipe, 1, 0.0):
        report = forecast(pipe, cfg=False)
    assert not stored(home)
    assert "nothing was learned from this run: the model returned 0 everywhere" in report.warnings


def test_branches_that_are_alike_teach_something(home: Path) -> None:
    """Their difference is 0, and should be."""
    pipe = WAN.build()
    inputs = WAN.inputs(pipe, steps=STEPS)
    inputs["negative_prompt_embeds"] = inputs["prompt_embeds"]
    with magcache.apply(pipe, speedup=1.5) as applied:
        run(pipe, **inputs)
    assert not applied.report().warnings and len(stored(home)) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_measurement_that_holds_no_number_is_refused_as_it_is_made(value: float) -> None:
    pipe, calls = FLUX.build(), iter(range(1000))

    def spoil(_block: Any, _args: Any, output: Any) -> Any:
        if next(calls) == 4:
            output[1][0, 0, 0] = value
        return output

    pipe.transformer.transformer_blocks[-1].register_forward_hook(spoil)
    with magcache.apply(pipe, calibrate=True) as applied:
        run(pipe, **FLUX.inputs(pipe, steps=8, cfg=False))
        with pytest.raises(CalibrationError, match=r"cond at evaluation \d .* NaN or Inf: some"):
            applied.calibration()


def test_blocks_that_add_nothing_are_not_measured() -> None:
    pipe = FLUX.build()
    for block in (
        *pipe.transformer.transformer_blocks,
        *pipe.transformer.single_transformer_blocks,
    ):
        block.register_forward_hook(
            lambda _m, _a, kw, _o: (kw["encoder_hidden_states"], kw["hidden_states"]),
            with_kwargs=True,
        )
    with magcache.apply(pipe, calibrate=True) as applied:
        run(pipe, **FLUX.inputs(pipe, steps=4, cfg=False))
        with pytest.raises(CalibrationError, match="was 0 everywhere"):
            applied.calibration()


# Another cache


def pyramid(pipe: DiffusionPipeline) -> Any:
    return dfs.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=("blocks", "transformer_blocks"),
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def faster(pipe: DiffusionPipeline) -> Any:
    return dfs.FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=("blocks", "transformer_blocks"),
        spatial_attention_timestep_skip_range=(-1, 981),
        current_timestep_callback=lambda: pipe.current_timestep,
        tensor_format="BFCHW",
        is_guidance_distilled=True,
    )


CACHES = {
    "FirstBlockCache": lambda _: dfs.FirstBlockCacheConfig(threshold=0.2),
    "MagCache": lambda _: dfs.MagCacheConfig(
        mag_ratios=[1.0] * STEPS, num_inference_steps=STEPS, threshold=0.2
    ),
    "TaylorSeer": lambda _: dfs.TaylorSeerCacheConfig(
        cache_interval=3, disable_cache_before_step=2
    ),
    "PyramidAttentionBroadcast": pyramid,
    "FasterCache": faster,
}


@pytest.mark.parametrize("name", CACHES)
def test_beside_another_cache_nothing_is_learned_or_measured(name: str, home: Path) -> None:
    pipe = FLUX.build()
    pipe.transformer.enable_cache(CACHES[name](pipe))
    report = forecast(pipe)
    assert not stored(home)
    (said,) = report.warnings
    assert said.startswith("nothing was learned from this run: ") and "disable_cache" in said
    with magcache.apply(pipe, calibrate=True) as applied:
        run(pipe, **FLUX.inputs(pipe, steps=4, cfg=False))
        with pytest.raises(CalibrationError, match="also skips parts of the model"):
            applied.calibration()
    pipe.transformer.disable_cache()
    assert not forecast(pipe).warnings and len(stored(home)) == 1


def test_offload_and_casting_are_no_caches(home: Path) -> None:
    pipe = FLUX.build()
    pipe.transformer.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    assert not forecast(pipe).warnings and len(stored(home)) == 1


# Other weights


def test_other_weights_of_the_same_shapes_have_a_notebook_of_their_own(home: Path) -> None:
    pipe = FLUX.build()
    forecast(pipe)
    with torch.no_grad():  # a LoRA, fused into one matrix
        weight = pipe.transformer.single_transformer_blocks[-1].proj_mlp.weight
        weight += 0.1 * torch.outer(torch.randn(len(weight)), torch.randn(len(weight[0])))
    forecast(pipe)
    forecast(pipe)
    assert len(stored(home)) == 2


# The command


def test_a_prompt_that_fails_costs_only_itself(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = image.load()
    monkeypatch.setattr(image, "load", lambda **_: model)
    sampled: list[str] = []
    arguments = type(model).arguments

    def fails_on_the_second(self: Any, prompts: list[str], *asked: Any) -> Any:
        sampled.extend(prompts)
        if len(sampled) == 2:
            raise RuntimeError("out of memory")
        return arguments(self, prompts, *asked)

    monkeypatch.setattr(type(model), "arguments", fails_on_the_second)
    first, second = model.prompts("calibration")[:2]
    options = ["--steps=4", f"--home={home}", f"--prompt={first}", f"--prompt={second}"]
    assert cli.main(["calibrate", "emoji", *options]) == 0
    assert "failed and is left out: out of memory" in capsys.readouterr().err
    assert len(stored(home)) == 1
