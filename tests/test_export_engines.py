"""Exports, loaded and acted on by the engines' own code, where a copy of it is at hand.

LIGHTX2V_PATH and VLLM_OMNI_PATH name checkouts (of vLLM-Omni also an unpacked wheel). Their
devices and servers are left out: what these modules import beside MagCache's own code is replaced
while the tests run.
"""

import importlib
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from magcache.curves import Calibration, presets
from magcache.decide import Rule, rule_of
from magcache.export import compose, export
from tests.toys import scheduled

STEPS = 20


def checkout(variable: str) -> Path:
    """The folder that a variable names."""
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no checkout of the engine")
    return Path(os.environ[variable]).expanduser()


def module(name: str, path: Path | None = None, **content: Any) -> types.ModuleType:
    """A stand-in; with a path, a package whose own modules are the engine's."""
    made = types.ModuleType(name)
    vars(made).update(content)
    if path is not None:
        made.__path__ = [str(path)]
    return made


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts stand-ins in the place of modules; afterwards none and nothing loaded by them is left"""
    before = set(sys.modules)
    yield lambda *made: [monkeypatch.setitem(sys.modules, m.__name__, m) for m in made]
    for name in set(sys.modules) - before:
        del sys.modules[name]


def planned(source: Calibration, rule: Rule, branch: str) -> str:
    return str(scheduled(rule, {branch: source.curves[branch]}, source.trajectory(STEPS)))


class _LightX2VModel:
    """The transformer below LightX2V's MagCache: adds 1, and counts."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.clean_cuda_cache = False
        self.calls = 0

    def infer_main_blocks(self, _weights: Any, inputs: Any) -> torch.Tensor:
        self.calls += 1
        return inputs.x + 1


@pytest.fixture
def lightx2v(stand_ins: Any) -> type[Any]:
    """LightX2V's own MagCache of Wan."""
    root = checkout("LIGHTX2V_PATH")
    wan = "lightx2v.models.networks.wan"
    names = ("lightx2v", "lightx2v.models", "lightx2v.models.networks", wan)
    packages = [*names, f"{wan}.infer", f"{wan}.infer.feature_caching"]
    stand_ins(
        *(module(name, root.joinpath(*name.split("."))) for name in packages),
        module("lightx2v.common", root),
        module("lightx2v.common.transformer_infer", root),
        module(
            "lightx2v.common.transformer_infer.transformer_infer",
            BaseTaylorCachingTransformerInfer=_LightX2VModel,
        ),
        module(f"{wan}.infer.offload", root),
        module(f"{wan}.infer.offload.transformer_infer", WanOffloadTransformerInfer=_LightX2VModel),
        module("lightx2v_platform", root),
        module("lightx2v_platform.base", root),
        module("lightx2v_platform.base.global_var", AI_DEVICE="cpu"),
    )
    caching = importlib.import_module(f"{wan}.infer.feature_caching.transformer_infer")
    return caching.WanTransformerInferMagCaching


def lightx2v_schedule(model: Any, steps: range, branch: str) -> str:
    symbols = ""
    for step in steps:
        model.scheduler = types.SimpleNamespace(
            step_index=step, infer_condition=branch == "cond", infer_steps=STEPS
        )
        before = model.calls
        model.infer_main_blocks(None, types.SimpleNamespace(x=torch.zeros(1, 2, 3)))
        symbols += "#" if model.calls > before else "."
    return symbols


@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_lightx2v_skips_what_was_planned(lightx2v: type[Any], branch: str) -> None:
    source = presets.load("wan2.1_t2v_14B")
    rule = rule_of(source)
    composed = compose(source, rule, source.trajectory(STEPS))
    model = lightx2v({**export("lightx2v", source, composed), "cpu_offload": False})
    assert lightx2v_schedule(model, range(STEPS), branch) == planned(source, rule, branch)


def test_lightx2v_computes_where_the_second_expert_begins(lightx2v: type[Any]) -> None:
    source = presets.load("wan2.2_t2v_14B")
    rule = rule_of(source)
    composed = compose(source, rule, source.trajectory(STEPS))
    config = {**export("lightx2v", source, composed), "cpu_offload": False}
    switch = composed.parts[0].steps
    experts = (lightx2v(config), range(switch)), (lightx2v(config), range(switch, STEPS))
    found = "".join(lightx2v_schedule(model, steps, "cond") for model, steps in experts)
    assert found == planned(source, rule, "cond") and found[switch] == "#"


@pytest.fixture
def vllm_omni(stand_ins: Any) -> types.ModuleType:
    """vLLM-Omni's own MagCache."""
    root = checkout("VLLM_OMNI_PATH")
    pytest.importorskip("diffusers")
    logger = types.SimpleNamespace(info=print, debug=print, warning=print)
    diffusion = "vllm_omni.diffusion"
    cache = f"{diffusion}.cache"
    packages = ("vllm_omni", diffusion, cache, f"{diffusion}.hooks")
    stand_ins(
        *(module(name, root.joinpath(*name.split("."))) for name in packages),
        module(f"{cache}.magcache", root.joinpath(*cache.split("."), "magcache")),
        module("vllm", root / "none"),
        module("vllm.logger", init_logger=lambda _name: logger),
        module("vllm_omni.logger", init_logger=lambda _name: logger),
    )
    return importlib.import_module(f"{cache}.magcache.hook")


class _Block(nn.Module):
    """Called as FLUX's blocks are; counts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls += 1
        return encoder_hidden_states, hidden_states * 1.1


class _Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([_Block() for _ in range(3)])

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        for block in self.transformer_blocks:
            text, x = block(hidden_states=x, encoder_hidden_states=text)
        return x


def test_vllm_omni_skips_what_was_planned(vllm_omni: Any) -> None:
    source = presets.load("flux")
    rule = rule_of(source)
    settings = export("vllm-omni", source, compose(source, rule, source.trajectory(STEPS)))
    # As its backend makes one from the cache configuration, see its MagCacheBackend.enable.
    config = vllm_omni.MagCacheConfig(
        threshold=settings["mag_threshold"],
        max_skip_steps=settings["mag_max_skip_steps"],
        retention_ratio=settings["mag_retention_ratio"],
        num_inference_steps=settings["num_inference_steps"],
        mag_ratios=settings["mag_ratios"],
    )
    model = _Transformer()
    vllm_omni.apply_mag_cache_hook(model, config)
    symbols, x = "", torch.ones(1, 2, 3)
    for _ in range(STEPS):
        before = model.transformer_blocks[1].calls
        model(x, torch.ones(1, 2, 3))
        symbols += "#" if model.transformer_blocks[1].calls > before else "."
    assert symbols == planned(source, rule, "cond")
