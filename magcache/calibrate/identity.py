"""Reads the identity of a model."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import plain_module
from ..curves import Identity

_ROWS = 8  # rows of a matrix to read, evenly spread so that each part of a fused weight has some
_COLUMNS = 4  # neighbouring entries to read per row, within one page of a memory-mapped file
_LEAST = 2.0**-16  # smaller values count as 0, because float16 rounds them


def identity_of(
    module: nn.Module,
    *experts: nn.Module,
    patches: str = "",
    kept: Mapping[Tensor, Tensor] | None = None,
) -> Identity:
    """The identity of a model. Reads names, shapes, and a few entries of each weight.

    A model has the same identity in float32 and bfloat16, compiled or not, on every device, and in
    float16 if bfloat16 holds its weights exactly. In another format, such as float8 or GGUF, it
    counts as other weights. If it is sharded or on "meta", `weights` is None. Scalar scales that
    quantisation adds are ignored. An active LoRA next to the weights (PEFT) changes `weights`
    only.

    Args:
        module: The transformer, which may be wrapped.
        experts: Further transformers of the same pipeline; together they count as one model.
        patches: See `Identity.patches`.
        kept: For parameters that the host has changed or emptied, the originals it will restore.
    """
    modules = [_unwrapped(m) for m in (module, *experts)]
    named = [_parameters(m) for m in modules]
    lines = (f"{name} {tuple(p.shape)}" for own in named for name, p in own.items())
    read = [(kept or {}).get(p, p) for own in named for p in own.values()]
    return Identity(
        model=type(modules[0]).__name__,
        parameters=sum(p.numel() for own in named for p in own.values()),
        shapes=_hash("\n".join(lines).encode()),
        weights=sampled_hash([*read, *(each for m in modules for each in _adapters(m))]),
        patches=patches,
    )


def sampled_hash(values: Iterable[Tensor | str]) -> str | None:
    """A hash of texts and of a few entries of each tensor; None if a tensor cannot be read.

    Waits once per device and dtype, regardless of the number of tensors.
    """
    texts: list[str] = []
    tensors: list[Tensor] = []
    for value in values:
        if isinstance(value, str):
            texts.append(value)
            continue
        plain = _plain(value)
        if plain is None:
            return None
        tensors += plain
    if not tensors:
        return _hash("\n".join(texts).encode(), 16) if texts else None
    read = _transferred([_few(tensor) for tensor in tensors])
    return _hash(read.view(torch.int16).numpy().tobytes() + "\n".join(texts).encode(), 16)


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module inside wrappers such as torch.compile's and DDP."""
    while True:
        inner = plain_module(module)
        children = dict(islice(inner.named_children(), 2))
        if list(children) == ["module"]:
            inner = children["module"]
        if inner is module:
            return module
        module = inner


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    """Parameters sorted by name, with the names they have without wrappers and adapters."""
    found = {}
    for name, parameter in module.named_parameters():
        if parameter.numel() > 1 and ".lora_" not in name:
            found[name.replace("_orig_mod.", "").replace("base_layer.", "")] = parameter
    return dict(sorted(found.items()))


def _adapters(module: nn.Module) -> Iterable[Tensor | str]:
    """The active PEFT adapters next to the weights, with their scales."""
    for name, parameter in sorted(module.named_parameters(), key=lambda item: item[0]):
        place, found, inside = name.partition(".lora_")
        if not found:
            continue
        layer, names = module.get_submodule(place), inside.split(".")
        active = getattr(layer, "active_adapters", names)
        if not getattr(layer, "disable_adapters", False) and not set(names).isdisjoint(active):
            scales = getattr(layer, "scaling", {})
            yield f"{name} {[scales.get(adapter) for adapter in names]}"
            yield parameter


def _plain(tensor: Any) -> list[Tensor] | None:
    """The tensors that hold a parameter's values; None if they are not all available."""
    if tensor.device.type == "meta" or hasattr(tensor, "placements"):
        return None
    if type(tensor) not in (nn.Parameter, Tensor) and hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        inner = [_plain(getattr(tensor, name)) for name in names]
        return None if None in inner else [each for found in inner for each in found or ()]
    tensor = tensor.detach().as_subclass(Tensor)
    here = tensor.layout == torch.strided and tensor.untyped_storage().nbytes() > 0
    return [tensor] if here and not tensor.is_complex() else None


def _few(tensor: Tensor) -> Tensor:
    """A few entries, one-dimensional."""
    if tensor.dtype.itemsize == 1:
        tensor = tensor.view(torch.uint8)  # some one-byte dtypes have no arithmetic
    while tensor.ndim > 2:
        tensor = tensor.select(-1, tensor.shape[-1] // 2)
    if tensor.ndim < 2:
        tensor = tensor.reshape(-1, 1)
    (rows, columns), (down, right) = tensor.shape, tensor.stride()
    count, width = min(rows, _ROWS), min(columns, _COLUMNS)
    if not count * width:
        return tensor.flatten()
    apart, aside = rows // count, (columns - width) // count
    first = tensor.storage_offset() + apart // 2 * down
    strides = (apart * down + aside * right, right)
    return torch.as_strided(tensor, (count, width), strides, first).reshape(-1)


def _transferred(parts: Sequence[Tensor]) -> Tensor:
    """All parts on the CPU as one bfloat16 tensor, in order."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, part in enumerate(parts):
        groups.setdefault((part.device, part.dtype), []).append(place)
    found = list(parts)
    for places in groups.values():
        own = [parts[place] for place in places]
        values = torch.cat(own).to(torch.bfloat16).cpu()
        for place, part in zip(places, values.split([len(each) for each in own]), strict=True):
            found[place] = part
    values = torch.cat(found)
    return values.masked_fill_(values.abs() < _LEAST, 0)


def _hash(data: bytes, digits: int = 12) -> str:
    return hashlib.sha256(data).hexdigest()[:digits]
