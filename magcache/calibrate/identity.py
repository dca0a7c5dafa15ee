"""Reading what a model is known by."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..blocks import plain_module
from ..curves import Identity

_READ = 12  # parameters of which a few entries are read
_FEW = 4  # entries read along each of its dimensions
_PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def identity_of(module: nn.Module, *experts: nn.Module, patches: str = "") -> Identity:
    """The identity of a model. Reads names, shapes and a hundred or so of its weights.

    One model gets one identity in float32, bfloat16 and (but for tiny weights) float16, compiled
    or not, on every device. Quantised, sharded or on "meta", its `weights` are None; scales that
    quantising adds as scalars do not count. A LoRA that is loaded beside the weights (PEFT)
    changes `weights` only.

    Args:
        module: The transformer, which may be wrapped.
        experts: Further ones of the same pipeline: together they are one model.
        patches: See `Identity.patches`.
    """
    modules = [_unwrapped(m) for m in (module, *experts)]
    named = [_parameters(m) for m in modules]
    base = [{name: p for name, p in own.items() if ".lora_" not in name} for own in named]
    added = [{name: p for name, p in own.items() if ".lora_" in name} for own in named]
    lines = (f"{name} {tuple(p.shape)}" for own in base for name, p in own.items())
    read = [p for own in (*base, *added) for p in _spread(list(own.values()))]
    return Identity(
        model=type(modules[0]).__name__,
        parameters=sum(p.numel() for own in base for p in own.values()),
        shapes=_hash("\n".join(lines).encode()),
        weights=_weights_hash(read),
        patches=patches,
    )


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module inside those of torch.compile and of DDP and its like."""
    while True:
        inner = plain_module(module)
        children = dict(inner.named_children())
        if list(children) == ["module"]:
            inner = children["module"]
        if inner is module:
            return module
        module = inner


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    """Parameters by name, sorted, under the names they have with nothing wrapped or added."""
    found = {}
    for name, parameter in module.named_parameters():
        if parameter.numel() > 1:
            found[name.replace("_orig_mod.", "").replace("base_layer.", "")] = parameter
    return dict(sorted(found.items()))


def _spread(parameters: Sequence[Tensor]) -> list[Tensor]:
    count = min(len(parameters), _READ)
    return [parameters[place * len(parameters) // count] for place in range(count)]


def _weights_hash(parameters: Sequence[Tensor]) -> str | None:
    if not parameters or not all(_readable(p) for p in parameters):
        return None
    entries = [_few(p.detach()) for p in parameters]
    if len({entry.device for entry in entries}) == 1:
        values = torch.cat(entries).cpu()  # one transfer
    else:
        values = torch.cat([entry.cpu() for entry in entries])
    return _hash(values.view(torch.int16).numpy().tobytes())


def _readable(parameter: Tensor) -> bool:
    plain = type(parameter) in (nn.Parameter, Tensor) and parameter.dtype in _PLAIN
    return plain and parameter.device.type != "meta"


def _few(tensor: Tensor) -> Tensor:
    """Some entries along each dimension, as bfloat16; a view until then, whatever the strides."""
    for dimension, size in enumerate(tensor.shape):
        few = _FEW if tensor.ndim <= 2 else 2
        tensor = tensor[(slice(None),) * dimension + (slice(None, None, -(-size // few)),)]
    return tensor.to(torch.bfloat16).flatten()


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
