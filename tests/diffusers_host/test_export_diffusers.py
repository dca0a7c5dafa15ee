"""An export, given to diffusers' own MagCache, makes the schedule that was planned."""

from __future__ import annotations

import pytest
from diffusers import MagCacheConfig
from torch import nn

from harness import PRESETS
from magcache.curves import presets
from magcache.decide import rule_of
from magcache.export import ENGINES, compose, export
from tests.toys import scheduled
from tiny import TINY, Tiny, experts, run

STEPS = 20
KNOWN = [
    tiny
    for name, tiny in TINY.items()
    if ENGINES["diffusers"].fits(presets.load(PRESETS[name])) and name != "wan2.2_t2v"
]


def computed_by_diffusers(tiny: Tiny, configs: list[MagCacheConfig]) -> str:
    """`#` where attention ran inside the last block; diffusers itself goes on calling blocks."""
    pipe = tiny.build()
    calls: list[bool] = []
    for model, config in zip(experts(pipe), configs, strict=True):
        model.enable_cache(config)
        inside = next(m for n, m in tiny.blocks(model)[-1].named_modules() if "attn" in n)
        model.register_forward_pre_hook(lambda *_: calls.append(False))
        inside.register_forward_pre_hook(lambda *_: calls.__setitem__(-1, True))
    run(pipe, **tiny.inputs(pipe, steps=STEPS, cfg=False))
    return "".join("#" if call else "." for call in calls)


@pytest.mark.parametrize("tiny", KNOWN, ids=lambda tiny: tiny.name)
def test_diffusers_skips_what_was_planned(tiny: Tiny) -> None:
    source = presets.load(PRESETS[tiny.name])
    trajectory = source.trajectory(STEPS)
    composed = compose(source, rule_of(source), trajectory)
    config = MagCacheConfig(**export("diffusers", source, composed))
    # It has one list for all branches, and no negative prompt here.
    planned = scheduled(rule_of(source), {"cond": source.curves["cond"]}, trajectory)
    assert computed_by_diffusers(tiny, [config]) == str(planned)
    assert "." in str(planned)


def test_both_experts_of_wan22_get_their_own_part() -> None:
    source, tiny = presets.load("wan2.2_t2v_14B"), TINY["wan2.2_t2v"]
    trajectory = source.trajectory(STEPS, shift=5.0)  # the tiny pipeline's
    composed = compose(source, rule_of(source), trajectory, 5.0)
    parts = export("diffusers", source, composed)
    configs = [MagCacheConfig(**parts[name]) for name in ("transformer", "transformer_2")]
    planned = scheduled(rule_of(source), {"cond": source.curves["cond"]}, trajectory)
    assert computed_by_diffusers(tiny, configs) == str(planned)


@pytest.mark.parametrize("name", ["chroma", "hunyuan_video1.5"])
def test_diffusers_itself_refuses_what_is_not_exported(name: str) -> None:
    model: nn.Module = TINY[name].build().transformer
    assert not ENGINES["diffusers"].fits(presets.load(PRESETS[name]))
    with pytest.raises(ValueError, match="not registered"):
        model.enable_cache(MagCacheConfig(mag_ratios=[1.0] * 28))
