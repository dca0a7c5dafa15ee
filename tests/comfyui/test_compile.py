"""Compiled models, by Compile Model and by ComfyUI's own node, with MagCache before or after."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from tiny_models import TINY, Tiny, sample
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from watch import cached, difference

from magcache.hosts.comfyui.compile import BACKENDS, MODES
from magcache.hosts.comfyui.models import FAMILIES
from magcache.hosts.comfyui.nodes.compile import CompileModel

WAN = TINY["wan_t2v"]
STEPS = 8


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """No graphs from before, and no switch for the whole process after."""
    torch._dynamo.reset()
    counters.clear()
    before = torch._dynamo.config.get_config_copy()
    yield
    assert torch._dynamo.config.get_config_copy() == before
    torch._dynamo.reset()


def by_blocks(model: Any, backend: Any = "eager", mode: str = "default") -> Any:
    return CompileModel().apply(model, mode, backend, False, False)[0]


def whole(model: Any, backend: Any = "eager") -> Any:
    """As ComfyUI's TorchCompileModel does it."""
    model = model.clone()
    unguarded = {"guard_filter_fn": lambda g: ["transformer_options" not in e.name for e in g]}
    set_torch_compile_wrapper(model, backend=backend, options=unguarded)
    return model


def magcache(model: Any, tiny: Tiny = WAN) -> Any:
    return cached(model, tiny).model


ORDERS = {
    "Compile Model, MagCache": lambda m, t: magcache(by_blocks(m), t),
    "MagCache, Compile Model": lambda m, t: by_blocks(magcache(m, t)),
    "TorchCompileModel, MagCache": lambda m, t: magcache(whole(m), t),
    "MagCache, TorchCompileModel": lambda m, t: whole(magcache(m, t)),
    "TorchCompileModel, MagCache, Compile Model": lambda m, t: by_blocks(magcache(whole(m), t)),
    "Compile Model, MagCache, TorchCompileModel": lambda m, t: whole(magcache(by_blocks(m), t)),
}


CASES = [("wan_t2v", order) for order in ORDERS]
CASES += [(name, list(ORDERS)[i]) for name in ("flux", "qwen_image") for i in (0, 3)]


@pytest.mark.parametrize(("name", "order"), CASES)
def test_every_order_gives_what_the_uncompiled_model_gives(name: str, order: str) -> None:
    tiny = TINY[name]
    model = tiny.build()
    expected = sample(magcache(model, tiny), tiny, STEPS)
    compiled = ORDERS[order](model, tiny)
    assert difference(sample(compiled, tiny, STEPS), expected) < 1e-5
    assert counters["stats"]["unique_graphs"] == len(FAMILIES[tiny.network].lists), (
        "a graph a kind of block"
    )
    assert difference(sample(compiled, tiny, STEPS), expected) < 1e-5
    assert counters["stats"]["unique_graphs"] == len(FAMILIES[tiny.network].lists), (
        "none at a second sampling"
    )
    plain = sample(model, tiny, STEPS)
    assert difference(expected, plain) > 1e-3, "what is skipped shows"
    assert not any("_orig_mod" in name for name, _ in model.model.named_modules())


@pytest.mark.parametrize("name", TINY)
def test_every_family_has_a_graph_a_kind_of_block_and_its_values(name: str) -> None:
    tiny = TINY[name]
    model = tiny.build()
    expected = sample(model, tiny, 2)
    assert torch.equal(sample(by_blocks(model), tiny, 2), expected)
    # VACE's first block has a projection that the others have not.
    kinds = len(FAMILIES[tiny.network].lists) + (name == "wan_vace")
    assert counters["stats"]["unique_graphs"] == kinds


@pytest.mark.slow
@pytest.mark.parametrize("order", list(ORDERS)[:4])
def test_inductor_gives_it_within_float_tolerance(order: str, monkeypatch: Any) -> None:
    monkeypatch.setitem(globals(), "by_blocks", lambda m, b="inductor": _by(m, b))
    monkeypatch.setitem(globals(), "whole", lambda m, b="inductor": _whole(m, b))
    model = WAN.build()
    expected = sample(magcache(model), WAN, STEPS)
    assert difference(sample(ORDERS[order](model, WAN), WAN, STEPS), expected) < 1e-4


_by, _whole = by_blocks, whole


@pytest.mark.parametrize("order", ["Compile Model, MagCache", "MagCache, TorchCompileModel"])
def test_a_compiled_model_is_skipped_as_often(order: str) -> None:
    model = WAN.build()
    watched = cached(model, WAN)
    sample(watched.model, WAN, STEPS)
    expected = watched.run.skipped
    watched = cached(by_blocks(model) if order.startswith("Compile") else model, WAN)
    compiled = watched.model if order.startswith("Compile") else whole(watched.model)
    sample(compiled, WAN, STEPS)
    assert watched.run.skipped == expected > 0


def test_sixteen_blocks_of_one_kind_are_compiled_once() -> None:
    model = WAN.build(depth=16)
    compiler = CompileCounterWithBackend("eager")
    compiled = sample(magcache(by_blocks(model, compiler)), WAN, STEPS)
    assert difference(compiled, sample(magcache(model), WAN, STEPS)) < 1e-5
    assert compiler.frame_count == 1


@pytest.mark.parametrize("fails", [False, True])
def test_no_hook_stays_on_a_block_compiled_or_not(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = _record_compiled(monkeypatch)
    model = WAN.build()
    blocks = by_blocks(model)
    hooked = []

    def look(executor: Any, *args: Any, **kwargs: Any) -> Any:
        hooked.append([len(each._forward_pre_hooks) for each in compiled])
        if fails:
            raise InterruptedError
        return executor(*args, **kwargs)

    blocks.add_wrapper_with_key("apply_model", "look", look)
    with pytest.raises(InterruptedError) if fails else nullcontext():
        sample(blocks, WAN, 2)
    assert set(map(tuple, hooked)) == {(1, 0, 0)}, "in a call: the first block"
    assert not any(each._forward_pre_hooks for each in (*compiled, *WAN.blocks(model)))


def test_a_later_compile_of_the_whole_model_is_what_it_is_without() -> None:
    model = WAN.build()
    alone, behind = (CompileCounterWithBackend("eager") for _ in range(2))
    expected = sample(whole(model, alone), WAN, 2)
    torch._dynamo.reset()
    assert torch.equal(sample(whole(by_blocks(model), behind), WAN, 2), expected)
    assert (behind.frame_count, behind.op_count) == (alone.frame_count, alone.op_count)


def _record_compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `torch.compile` makes from now on."""
    made: list[Any] = []
    compile: Callable[..., Any] = torch.compile

    def record(*args: Any, **kwargs: Any) -> Any:
        made.append(compile(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(torch, "compile", record)
    return made


def test_without_magcache_a_model_compiled_as_a_whole_is_left_so() -> None:
    model = WAN.build()
    compiler = CompileCounterWithBackend("eager")
    sample(whole(model, compiler), WAN, STEPS)
    off = cached(model, WAN, threshold=0).model
    torch._dynamo.reset()
    other = CompileCounterWithBackend("eager")
    sample(whole(off, other), WAN, STEPS)
    assert compiler.op_count == other.op_count > 0


def test_a_model_that_a_pack_has_compiled_by_itself_runs_with_a_warning(caplog: Any) -> None:
    model = WAN.build(depth=1)
    expected = sample(magcache(model), WAN, STEPS)
    other = model.clone()
    whole = torch.compile(model.model.diffusion_model, backend="eager")
    other.add_object_patch("diffusion_model", whole)
    assert difference(sample(magcache(other), WAN, STEPS), expected) < 1e-5
    assert caplog.text.count("compiled as a whole") == 1
    assert "use Compile Model instead" in caplog.text


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
def test_every_choice_of_the_node_runs(mode: str, backend: str) -> None:
    if backend == "inductor" and mode != "default":
        pytest.skip("max-autotune takes minutes on a CPU; its arguments: the next test")
    model = WAN.build(depth=1)
    expected = sample(model, WAN, 2)
    assert difference(sample(by_blocks(model, backend, mode), WAN, 2), expected) < 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_reaches_inductor_and_no_other_backend(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    compile: Callable[..., Any] = torch.compile

    def record(model: Any, **arguments: Any) -> Any:
        asked.append(arguments)
        return compile(model, **arguments)

    monkeypatch.setattr(torch, "compile", record)
    model = WAN.build(depth=1)
    for backend in BACKENDS:
        by_blocks(model, backend, mode)
    modes = {each["backend"]: each["mode"] for each in asked}
    chosen = None if mode == "default" else mode
    assert modes == {"inductor": chosen, "cudagraphs": None, "eager": None, "aot_eager": None}
    assert all(each["options"] is None for each in asked)


def test_a_model_of_unknown_blocks_is_told_where_to_go() -> None:
    model = WAN.build()
    model.model.diffusion_model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="does not know the blocks of Linear"):
        by_blocks(model)
