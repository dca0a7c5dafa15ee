"""Compiles a model block by block, through ComfyUI's own compile support.

Blocks of one kind share a graph, so each kind is compiled only once. And the list of separately
compiled blocks can still be emptied, unlike one graph of the whole model.

Blocks share a graph only if their inputs have the same memory layout. Wan transposes its tokens, so
its first block sees another layout than the others, which get a block's output. Therefore the first
block of each list gets contiguous tokens.
"""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from .models import block_names, class_name

MODES = ("default", "max-autotune", "max-autotune-no-cudagraphs", "reduce-overhead")
BACKENDS = ("inductor", "cudagraphs", "eager", "aot_eager")
_NETWORK = "diffusion_model"
_LAYOUT = "magcache_layout"


def compile_blocks(model: Any, mode: str, backend: str, fullgraph: bool, dynamic: bool) -> Any:
    """A clone of a ModelPatcher whose blocks are compiled when it is first sampled.

    It replaces the settings of an earlier compile node, as any compile node does.

    Raises:
        ValueError: The model's blocks are not known.
    """
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    names = block_names(model.model.diffusion_model)
    if not names:
        raise ValueError(
            f"Compile Model does not know the blocks of {class_name(model)}; use ComfyUI's own "
            "TorchCompileModel, which compiles the whole model"
        )
    # Newer versions stream weights, which graphs do not support.
    streams = "disable_dynamic" in inspect.signature(model.clone).parameters
    model = model.clone(**({"disable_dynamic": True} if streams else {}))
    set_torch_compile_wrapper(
        model,
        backend=backend,
        # Only inductor accepts a mode; other backends fail on the argument.
        mode=mode if backend == "inductor" and mode != "default" else None,
        fullgraph=fullgraph,
        dynamic=dynamic,
        keys=[f"{_NETWORK}.{name}" for name in names],
    )
    # Added after the compile wrapper, so it is called inside it, where the blocks are compiled.
    model.remove_wrappers_with_key("apply_model", _LAYOUT)
    model.add_wrapper_with_key("apply_model", _LAYOUT, _apply_model)
    return model


def compiled_blocks(whole: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Compiles each block of a model that was compiled as a whole.

    Compilation starts when a block is first called; torch reuses the graphs of earlier runs.

    Args:
        whole: The diffusion model as returned by `torch.compile`.
        settings: The arguments it was compiled with.

    Returns:
        The compiled blocks by their names in the diffusion model; empty if its blocks are not
        known.
    """
    network = whole._orig_mod
    blocks = {name: network.get_submodule(name) for name in block_names(network)}
    return {name: torch.compile(block, **settings) for name, block in blocks.items()}


@contextmanager
def by_blocks(model: Any, blocks: dict[str, nn.Module]) -> Iterator[None]:
    """For one call, replaces the compiled model by the plain model with compiled blocks.

    Args:
        model: The object whose `diffusion_model` is compiled.
        blocks: The result of `compiled_blocks`.
    """
    whole = model.diffusion_model
    network = whole._orig_mod
    plain = {name: network.get_submodule(name) for name in blocks}
    try:
        model.diffusion_model = network
        _put(network, blocks)
        with _one_layout(network):
            yield
    finally:
        _put(network, plain)
        model.diffusion_model = whole


def _apply_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
    with _one_layout(executor.class_obj.diffusion_model):
        return executor(*args, **kwargs)


@contextmanager
def _one_layout(network: nn.Module) -> Iterator[None]:
    """For one call, gives the first compiled block of each list contiguous tokens.

    The hook is on the object that `torch.compile` returned, outside of the graph.
    """
    with ExitStack() as stack:
        for name in block_names(network):
            block = network.get_submodule(name)
            if name.endswith(".0") and hasattr(block, "_orig_mod"):
                hook = block.register_forward_pre_hook(_contiguous, with_kwargs=True)
                stack.callback(hook.remove)
        yield


def _contiguous(
    _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A forward pre-hook that makes the first tensor, the tokens, contiguous."""
    if args:
        return (args[0].contiguous(), *args[1:]), kwargs
    name = next(key for key, value in kwargs.items() if isinstance(value, torch.Tensor))
    return args, {**kwargs, name: kwargs[name].contiguous()}


def _put(network: nn.Module, blocks: dict[str, nn.Module]) -> None:
    for name, block in blocks.items():
        parent, _, index = name.rpartition(".")
        network.get_submodule(parent)._modules[index] = block
