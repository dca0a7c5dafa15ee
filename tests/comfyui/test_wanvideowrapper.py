"""The node for WanVideoWrapper, in that pack's own sampler with a tiny random model.

WANVIDEOWRAPPER_PATH names its checkout; what it requires has to be installed.
"""

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import packs
import pytest
import safetensors.torch
import torch
from torch import nn

from magcache.curves import presets
from magcache.curves.calibration import CalibrationError
from magcache.curves.magnitude import Trajectory
from magcache.decide import Rule, Window, rule_of
from magcache.export import compose, export
from magcache.hosts.comfyui import calibrations
from magcache.hosts.comfyui.nodes import MagCacheWanVideoWrapper
from tests.calibrations import calibration
from tests.toys import scheduled

PACK = packs.needed("WANVIDEOWRAPPER_PATH")
CPU, DIM = torch.device("cpu"), 48
NODES = PACK.NODE_CLASS_MAPPINGS
SETTINGS = {"magcache_thresh": 0.12, "magcache_K": 4, "start_step": 4, "end_step": -1}
BLOCKS = 2  # of the 30 that its loader wants


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Its sampler collects garbage three times: all that was imported need not be looked at."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A WANVIDEOMODEL from the pack's own loader."""
    wan = importlib.import_module(f"{PACK.__name__}.wanvideo.modules.model")
    torch.manual_seed(0)
    sizes = {"dim": DIM, "in_features": DIM, "out_features": DIM, "ffn_dim": 64, "ffn2_dim": 64}
    network = wan.WanModel(**sizes, num_heads=12, num_layers=30, offload_device=CPU)
    for block in network.blocks:  # its class leaves these to the loaded weights
        block.cross_attn.k, block.cross_attn.v = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    weights = {k: v for k, v in network.state_dict().items() if k.startswith(tuple("bthp"))}
    folder = tmp_path_factory.mktemp("models")
    safetensors.torch.save_file(weights, folder / "tiny.safetensors")
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    name, device = "tiny.safetensors", "main_device"
    loaded = NODES["WanVideoModelLoader"]().loadmodel(name, "fp32", device, "disabled")[0]
    transformer = loaded.model.diffusion_model
    transformer.blocks = transformer.blocks[:BLOCKS]
    return loaded


def sample(model: Any, cache_args: Any = None, **changes: Any) -> torch.Tensor:
    """The latents of its sampler."""
    embeds = NODES["WanVideoEmptyEmbeds"]().process(num_frames=1, width=32, height=32)[0]
    generator = torch.Generator().manual_seed(1)
    prompts = [[torch.randn(4, 4096, generator=generator)] for _ in range(2)]
    text = dict(zip(("prompt_embeds", "negative_prompt_embeds"), prompts, strict=True))
    settings = {"steps": 20, "cfg": 1.0, "shift": 5.0, "seed": 0, "scheduler": "unipc", **changes}
    latents, _ = NODES["WanVideoSampler"]().process(
        model=model,
        image_embeds=embeds,
        riflex_freq_index=0,
        text_embeds=text,
        cache_args=cache_args,
        **settings,
    )
    return latents["samples"]


class Calls:
    """What the model's calls did: their timesteps, and whether a block ran."""

    def __init__(self) -> None:
        self.timesteps: list[float] = []
        self.ran: list[bool] = []

    def sigmas(self) -> tuple[float, ...]:
        return tuple(t / 1000 for t in dict.fromkeys(self.timesteps))

    def schedule(self, branches: int = 1) -> str:
        """`#` where all branches ran, `.` where none, `?` else."""
        evaluations = zip(*(self.ran[b::branches] for b in range(branches)), strict=True)
        return "".join({(True,): "#", (False,): "."}.get(tuple(set(e)), "?") for e in evaluations)


@contextmanager
def watched(model: Any) -> Iterator[Calls]:
    seen, transformer = Calls(), model.model.diffusion_model

    def begin(_: nn.Module, __: Any, kwargs: Any) -> None:
        seen.timesteps.append(float(kwargs["t"].max()))
        seen.ran.append(False)

    def run(*_: Any) -> None:
        seen.ran[-1] = True

    handles = [
        transformer.register_forward_pre_hook(begin, with_kwargs=True),
        transformer.blocks[0].register_forward_pre_hook(run),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def node(model: Any = None, preset: str = "wan2.1_t2v_14B", **changes: Any) -> Any:
    settings = {**SETTINGS, "cache_device": "offload_device", **changes}
    return MagCacheWanVideoWrapper().apply(preset, model=model, **settings)[0]


def own_node() -> Any:
    return NODES["WanVideoMagCache"]().setargs(**SETTINGS, cache_device="offload_device")[0]


def planned(sigmas: tuple[float, ...], preset: str = "wan2.1_t2v_14B") -> str:
    """The wrapper's rule: its first step is computed, the next one may be skipped."""
    rule = Rule(0.12, 4, 0, Window(SETTINGS["start_step"] + 1))
    curve = presets.load(preset).curves["cond"]
    return str(scheduled(rule, {"cond": curve}, Trajectory(sigmas)))


def state_of(transformer: nn.Module) -> dict[str, Any]:
    """Its own attributes and hooks, apart from what the wrapper's sampler sets itself."""
    hooks = {k: len(v) for k, v in vars(transformer).items() if k.endswith("_hooks")}
    return {**hooks, "ratios": transformer.magcache_ratios.copy().tolist()}


def test_the_settings_are_those_of_its_own_node() -> None:
    given, own = node(), own_node()
    assert dict(given) == own and list(given) == list(own)
    assert isinstance(given["cache_device"], torch.device)


@pytest.mark.parametrize(
    "run",
    [
        {"cfg": 3.0},
        {"steps": 30, "shift": 8.0},
        {"scheduler": "euler", "shift": 3.0},
        {"steps": 60},  # its own list ends at 50
    ],
    ids=["two branches", "shift", "euler", "60 steps"],
)
def test_the_schedule_is_right_at_the_runs_own_noise_levels(model: Any, run: dict) -> None:
    with watched(model) as seen:
        sample(model, node(model), **run)
    schedule = seen.schedule(2 if "cfg" in run else 1)
    assert schedule == planned(seen.sigmas())
    assert len(schedule) == run.get("steps", 20) and "." in schedule


def test_without_the_model_the_wrapper_skips_more_than_is_right(model: Any) -> None:
    with watched(model) as alone:
        sample(model, node())
    with watched(model) as connected:
        sample(model, node(model))
    assert alone.schedule().count(".") > connected.schedule().count(".")


def test_without_the_model_nothing_differs_from_its_own_node(model: Any) -> None:
    assert torch.equal(sample(model, node()), sample(model, own_node()))


def test_threshold_0_is_the_original(model: Any) -> None:
    assert torch.equal(sample(model, node(model, magcache_thresh=0.0)), sample(model))


def test_both_halves_of_a_split_run_follow_the_curve(model: Any) -> None:
    cache_args = node(model, start_step=0)
    with watched(model) as seen:
        sample(model, cache_args, start_step=0, end_step=10)
        sample(model, cache_args, start_step=10)
    rule, curve = Rule(0.12, 4, 0), presets.load("wan2.1_t2v_14B").curves["cond"]
    sigmas = seen.sigmas()
    halves = [scheduled(rule, {"cond": curve}, Trajectory(sigmas), part) for part in
              (sigmas[:10], sigmas[10:])]  # fmt: skip
    assert seen.schedule() == "".join(map(str, halves))


def test_at_the_change_of_experts_everything_is_computed(model: Any) -> None:
    with watched(model) as seen:
        sample(model, node(model, "wan2.2_t2v_14B"), shift=12.0)
    sigmas = seen.sigmas()
    first_low = next(place for place, sigma in enumerate(sigmas) if sigma < 0.875)
    assert seen.schedule() == planned(sigmas, "wan2.2_t2v_14B")
    assert seen.schedule()[first_low] == "#"


def test_a_sampling_leaves_the_model_as_it_was(model: Any) -> None:
    transformer = model.model.diffusion_model
    before, attributes = state_of(transformer), set(vars(transformer))
    cache_args = node(model)
    sample(model, cache_args)
    assert state_of(transformer)["ratios"] == before["ratios"]
    del cache_args
    assert state_of(transformer) == before
    assert set(vars(transformer)) == attributes


@pytest.mark.parametrize("where", ["forward", "between"])
def test_a_cancelled_sampling_leaves_nothing_for_the_next(
    model: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = model.model.diffusion_model
    expected, before = sample(model, own_node()), state_of(transformer)
    cache_args, interrupt = node(model), comfy.model_management.InterruptProcessingException
    calls = 0

    def stop(*_: Any, **__: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise interrupt

    cancelled = transformer.blocks[1] if where == "forward" else transformer
    hook = cancelled.register_forward_pre_hook(stop)
    with pytest.raises(interrupt):
        sample(model, cache_args)
    hook.remove()
    assert state_of(transformer)["ratios"] == before["ratios"]
    assert torch.equal(sample(model, own_node()), expected)
    with watched(model) as seen:
        sample(model, cache_args)
    assert seen.schedule() == planned(seen.sigmas())


def test_other_samplings_of_the_same_model_are_not_touched(model: Any) -> None:
    expected = sample(model, own_node())
    cache_args = node(model)
    assert torch.equal(sample(model, own_node()), expected)
    assert cache_args["cache_type"] == "MagCache"  # the node's output is still there


def test_two_nodes_on_one_model_keep_their_own_curves(model: Any) -> None:
    first, second = node(model), node(model, "wan2.1_t2v_1.3B")
    for cache_args, preset in ((first, "wan2.1_t2v_14B"), (second, "wan2.1_t2v_1.3B")):
        with watched(model) as seen:
            sample(model, cache_args)
        assert seen.schedule() == planned(seen.sigmas(), preset)


def test_an_export_makes_the_wrapper_skip_what_was_planned(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = presets.load("wan2.1_t2v_14B")
    trajectory = source.trajectory(20, shift=5.0)
    composed = compose(source, rule_of(source), trajectory, 5.0)
    settings = export("wanvideowrapper", source, composed)
    transformer = model.model.diffusion_model
    monkeypatch.setattr(transformer, "magcache_ratios", settings["magcache_ratios"])
    with watched(model) as seen:
        sample(model, {**settings["cache_args"], "cache_device": CPU})
    cond = {"cond": source.curves["cond"]}
    assert seen.schedule() == str(scheduled(rule_of(source), cond, trajectory))


def test_a_calibration_takes_the_place_of_the_published_curve(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrations, "folder", lambda: tmp_path)
    measured = calibration(20, model="WanModel").save(tmp_path / "mine.json")
    curve = calibration(20, model="WanModel").curves["cond"]
    with watched(model) as seen:
        sample(model, node(model, calibration=measured.name))
    rule = Rule(0.12, 4, 0, Window(SETTINGS["start_step"] + 1))
    expected = scheduled(rule, {"cond": curve}, Trajectory(seen.sigmas()))
    assert seen.schedule() == str(expected)
    other = calibration(20, model="Flux").save(tmp_path / "other.json")
    with pytest.raises(CalibrationError, match="measured on Flux, which WanVideoWrapper"):
        node(model, calibration=other.name)


@pytest.mark.parametrize("wrong", ["a string", nn.Linear(2, 2)])
def test_another_model_is_refused_with_its_name(wrong: Any) -> None:
    with pytest.raises(TypeError, match="must be a WANVIDEOMODEL"):
        node(wrong)
