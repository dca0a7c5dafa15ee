"""Low-memory modes and weights in few bits: a skipped evaluation touches no block's weights."""

from collections import Counter
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sd
import pytest
import torch
from tiny_models import TINY, count_blocks, sample
from watch import STEPS, cached, check, settings_of

WAN = TINY["wan_t2v"]
VRAM = comfy.model_management.VRAMState


def loaded_as(dtype: torch.dtype) -> Any:
    """The tiny Wan, loaded as "weight_dtype" of the node Load Diffusion Model has it."""
    weights = WAN.build().model.diffusion_model.state_dict()
    return comfy.sd.load_diffusion_model_state_dict(dict(weights), model_options={"dtype": dtype})


@pytest.mark.parametrize(
    ("state", "store"),
    [(VRAM.LOW_VRAM, "offload"), (VRAM.NO_VRAM, "offload"), (VRAM.NORMAL_VRAM, "device")],
)
def test_automatic_residuals_follow_the_memory_mode(
    state: Any, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = WAN.build()
    expected = sample(cached(model, WAN, residuals="compute device").model, WAN, STEPS)
    monkeypatch.setattr(comfy.model_management, "vram_state", state)
    watched = cached(model, WAN)
    assert settings_of(watched.model).store == store
    assert torch.equal(sample(watched.model, WAN, STEPS), expected)
    assert watched.run.storage.store == store


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_weights_in_few_bits_change_no_decision(dtype: torch.dtype) -> None:
    model = loaded_as(dtype)
    assert model.model.diffusion_model.blocks[0].ffn[0].weight.dtype == dtype
    run = check(model, WAN)
    watched = cached(WAN.build(), WAN)
    sample(watched.model, WAN, STEPS)
    assert [e.reason for e in run.evaluations] == [e.reason for e in watched.run.evaluations]


def test_a_skipped_evaluation_casts_no_weight_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not cast is not streamed in either: offloaded weights go through the same call."""
    model = loaded_as(torch.float8_e4m3fn)
    network, cast = model.model.diffusion_model, comfy.ops.cast_bias_weight
    inside = {id(module) for block in network.blocks for module in block.modules()}
    in_blocks: Counter[int] = Counter()
    elsewhere: Counter[int] = Counter()
    watched = cached(model, WAN)
    with count_blocks(watched.model, WAN) as counts:

        def counted(module: Any, *args: Any, **kwargs: Any) -> Any:
            count = in_blocks if id(module) in inside else elsewhere
            count[len(counts.evaluations) - 1] += 1
            return cast(module, *args, **kwargs)

        monkeypatch.setattr(comfy.ops, "cast_bias_weight", counted)
        sample(watched.model, WAN, STEPS)
    computed = [i for i, evaluation in enumerate(watched.run.evaluations) if not evaluation.skipped]
    assert sorted(in_blocks) == computed and len(computed) < STEPS
    assert sorted(elsewhere) == list(range(STEPS))  # embedders and head run as always
    assert len({in_blocks[i] for i in computed}) == 1  # a dry call casts none either
