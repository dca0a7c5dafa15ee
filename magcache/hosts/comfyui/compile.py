"""Compiling a model block by block, through ComfyUI's own compile support."""

from typing import Any

from ...families import family_of
from .families import FAMILIES, class_name

MODES = ("default", "max-autotune", "max-autotune-no-cudagraphs", "reduce-overhead")
BACKENDS = ("inductor", "cudagraphs", "eager", "aot_eager")


def compile_blocks(model: Any, mode: str, backend: str, fullgraph: bool, dynamic: bool) -> Any:
    """A clone of a ModelPatcher whose blocks are compiled at its first sampling.

    Blocks of one shape share a compiled graph, so this takes the time of one block a kind.

    Raises:
        ValueError: The model's blocks are not known.
    """
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = model.clone()
    network = model.model.diffusion_model
    family = family_of(network, FAMILIES)
    if family is None:
        raise ValueError(
            f"Compile Model does not know the blocks of {class_name(model)}; use ComfyUI's own "
            "TorchCompileModel, which compiles the whole model"
        )
    keys = [
        f"diffusion_model.{name}.{index}"
        for name in family.lists
        for index in range(len(getattr(network, name, ())))
    ]
    # torch takes a mode with inductor only, and options or a mode, not both.
    chosen = mode if backend == "inductor" and mode != "default" else None
    set_torch_compile_wrapper(
        model,
        backend=backend,
        mode=chosen,
        fullgraph=fullgraph,
        dynamic=dynamic,
        keys=keys,
    )
    return model
