"""What a model is known by: the same in every guise, another for every other model."""

import json
import time
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import nn

from magcache.calibrate.identity import identity_of
from magcache.curves.identity import Identity


class Net(nn.Module):
    """A few layers; `seed` makes their weights, which bfloat16 holds exactly."""

    def __init__(self, width: int = 8, seed: int = 0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(width, 2 * width) for _ in range(3)])
        self.patch = nn.Conv3d(4, width, (1, 2, 2))
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.data = values.bfloat16().float()


class OtherNet(Net):
    pass


class Wrapper(nn.Module):
    """As DistributedDataParallel is built."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_two_loads_of_one_model_are_one():
    assert identity_of(Net()) == identity_of(Net())


def test_it_counts_and_names_what_it_has():
    found = identity_of(Net(width=8))
    assert found.model == "Net"
    assert found.parameters == 3 * (8 * 16 + 16) + 8 * 4 * 4 + 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_dtype_is_the_same_model(dtype: torch.dtype):
    assert identity_of(Net().to(dtype)) == identity_of(Net())


def test_rounding_to_bfloat16_is_the_same_model():
    net = Net()
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape)
    exact = identity_of(net)
    assert identity_of(net.bfloat16()) == exact


def test_another_memory_layout_is_the_same_model():
    assert identity_of(Net().to(memory_format=torch.channels_last_3d)) == identity_of(Net())


def test_the_order_in_which_layers_were_made_is_no_matter():
    net = Net()
    blocks = net.blocks
    del net.blocks
    net.blocks = blocks  # now after `patch`
    assert identity_of(net) == identity_of(Net())


@pytest.mark.parametrize(
    "wrap",
    [
        Wrapper,
        lambda net: torch.compile(net, backend="eager"),
        lambda net: Wrapper(torch.compile(net, backend="eager")),
        lambda net: torch.compile(Wrapper(net), backend="eager"),
    ],
)
def test_a_wrapped_model_is_the_same_model(wrap: Any):
    assert identity_of(wrap(Net())) == identity_of(Net())


def test_a_model_with_compiled_blocks_is_the_same_model():
    net = Net()
    net.blocks[1] = torch.compile(net.blocks[1], backend="eager")
    assert identity_of(net) == identity_of(Net())


def test_other_weights_are_the_same_architecture_and_another_model():
    one, other = identity_of(Net(seed=0)), identity_of(Net(seed=1))
    assert one.same_architecture(other) and not one.same_weights(other)


@pytest.mark.parametrize("other", [Net(width=16), OtherNet()])
def test_another_size_or_class_is_another_architecture(other: nn.Module):
    assert not identity_of(Net()).same_architecture(identity_of(other))


def test_a_lora_fused_into_any_one_matrix_is_seen():
    """Of FLUX's 1,160 weights twelve were read once, nine of them norms and biases."""
    net = nn.ModuleList([Net(seed=place) for place in range(50)])
    matrices = [p for p in net.parameters() if p.ndim > 1]
    seen = {identity_of(net).weights}
    for matrix in matrices:
        before = matrix.detach().clone()
        fused = torch.outer(torch.randn(matrix.shape[0]), torch.randn(matrix[0].numel()))
        matrix.data += 0.1 * fused.view_as(matrix)
        seen.add(identity_of(net).weights)
        matrix.data = before
    assert len(matrices) == 200 and len(seen) == 201


@pytest.mark.parametrize("part", range(7))
def test_a_lora_fused_into_one_part_of_a_fused_matrix_is_seen(part: int):
    """Queries, keys, values and the four parts of an MLP are rows of one matrix."""
    net = nn.Sequential(nn.Linear(24, 7 * 24))
    before = identity_of(net)
    net[0].weight.data[part * 24 : (part + 1) * 24] += torch.randn(24, 24)
    assert not identity_of(net).same_weights(before)


def test_small_weights_are_the_same_model_in_float16():
    """float16 rounds them; a large model has some at every place that is read."""
    net = nn.Sequential(nn.Linear(64, 64))
    net[0].weight.data = (torch.randn(64, 64) * 2.0**-18).bfloat16().float()
    net[0].weight.data[::2] *= 2**14
    assert identity_of(net.half()) == identity_of(net.float())


def test_what_the_host_will_put_back_is_read_in_its_place():
    net = Net()
    before = identity_of(net)
    kept = {}
    for layer in net.blocks:
        emptied = nn.Parameter(torch.empty(layer.weight.shape, device="meta"))
        kept[emptied], layer.weight = layer.weight, emptied
    net.patch.weight.data += 1
    kept[net.patch.weight] = net.patch.weight - 1
    assert identity_of(net).weights is None
    assert identity_of(net, kept=kept) == before


def test_two_experts_are_one_model_unlike_either():
    high, low = Net(seed=0), Net(seed=1)
    both = identity_of(high, low)
    assert both.parameters == 2 * identity_of(high).parameters
    assert not both.same_architecture(identity_of(high))
    assert not both.same_weights(identity_of(low, high))


def test_patches_make_another_model():
    plain, patched = identity_of(Net()), identity_of(Net(), patches="1 LoRA")
    assert plain.same_architecture(patched) and not plain.same_weights(patched)


def test_a_lora_beside_the_weights_changes_the_weights_only():
    net = Net()
    plain = identity_of(net)
    net.blocks[0].register_parameter("lora_A", None)
    net.blocks[0].add_module("lora_B", nn.Linear(8, 2, bias=False))
    loaded = identity_of(net)
    assert loaded.same_architecture(plain) and loaded.weights != plain.weights
    assert loaded.parameters == plain.parameters


def test_a_lora_of_peft_counts_by_its_scale_while_it_is_active():
    net = Net()
    plain, layer = identity_of(net), net.blocks[0]
    layer.lora_B = nn.ModuleDict({"style": nn.Linear(8, 2, bias=False)})
    layer.scaling, layer.active_adapters, layer.disable_adapters = {"style": 1.0}, ["style"], False
    loaded = identity_of(net)
    layer.scaling["style"] = 0.5
    halved = identity_of(net)
    assert len({plain.weights, loaded.weights, halved.weights}) == 3
    layer.disable_adapters = True
    assert identity_of(net) == plain
    layer.disable_adapters, layer.active_adapters = False, []
    assert identity_of(net) == plain


def test_a_layer_that_peft_has_wrapped_keeps_its_name():
    class Wrapped(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.base_layer = layer

    net = Net()
    net.blocks[2] = Wrapped(net.blocks[2])
    assert identity_of(net) == identity_of(Net())


def offloaded(net: Net) -> Net:
    net.blocks[1].to("meta")
    return net


def in_float8(net: Net) -> Net:
    """As scaled float8 checkpoints are: the large weights, and a scale for each."""
    for layer in net.blocks:
        layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
        layer.scale_weight = nn.Parameter(torch.ones(()))
    return net


class PackedTensor(torch.Tensor):
    """As quantised weights are, of GGUF for instance."""


class Outer(torch.Tensor):
    """As torchao's and ComfyUI's quantised weights are: without numbers of its own."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Outer":
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=torch.float32)
        made.inner = inner
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].inner)
        raise NotImplementedError(func)


def wrapped(net: Net) -> Net:
    inner = net.blocks[0].weight.detach().to(torch.float8_e4m3fn)
    net.blocks[0].weight = nn.Parameter(Outer(inner), requires_grad=False)
    return net


def packed(net: Net) -> Net:
    layer = net.blocks[0]
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(PackedTensor), False)
    return net


@pytest.mark.parametrize("change", [offloaded, lambda net: net.to("meta")])
def test_where_weights_cannot_be_read_the_architecture_is_known(change: Any):
    found = identity_of(change(Net()))
    assert found.weights is None
    assert found.same_architecture(identity_of(Net()))
    assert not found.same_weights(found)


@pytest.mark.parametrize("change", [in_float8, packed, wrapped])
def test_quantised_weights_tell_one_fine_tune_from_another(change: Any):
    one, again, other = (identity_of(change(Net(seed=seed))) for seed in (0, 0, 1))
    assert one.same_weights(again) and not one.same_weights(other)
    assert one.same_architecture(identity_of(Net()))


def test_a_model_without_parameters_has_no_weights():
    found = identity_of(nn.Identity())
    assert (found.parameters, found.weights) == (0, None)


def test_it_is_json():
    found = identity_of(Net())
    assert Identity(**json.loads(json.dumps(asdict(found)))) == found


def test_no_tensor_is_read_whole(monkeypatch: pytest.MonkeyPatch):
    """Of a weight on a GPU, only a few entries travel."""
    sizes = []
    to_cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: sizes.append(t.numel()) or to_cpu(t))
    identity_of(Net(width=512))
    assert len(sizes) == 1
    assert sizes[0] == 3 * (8 * 4 + 8) + 8 * 4 + 8


def test_a_model_of_12_billion_parameters_takes_no_time():
    """1,560 tensors, more than FLUX has, never written: nothing is touched but what is read."""
    with torch.device("meta"):
        net = nn.ModuleList(
            [nn.ModuleList([nn.Linear(4000, 4000) for _ in range(10)]) for _ in range(78)]
        )
    shared = torch.zeros(1, dtype=torch.bfloat16)
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            for name in ("weight", "bias"):
                large = shared.expand(getattr(layer, name).shape)
                setattr(layer, name, nn.Parameter(large, requires_grad=False))
    best = min(seconds_of(net) for _ in range(3))
    assert identity_of(net).parameters > 12e9
    assert identity_of(net).weights is not None
    assert best < 0.1


def seconds_of(net: nn.Module) -> float:
    start = time.process_time()
    identity_of(net)
    return time.process_time() - start
