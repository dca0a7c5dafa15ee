"""Compile Model: `torch.compile`, block by block."""

from typing import Any

from .. import compile, host
from .widgets import entry


class CompileModel:
    """Compiles a model block by block."""

    CATEGORY = "MagCache"
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model; it is compiled when it is first sampled.",)
    DESCRIPTION = "Compiles the model's blocks with torch.compile, once for each kind of block."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": entry("MODEL", "The diffusion model, before or after MagCache."),
                "mode": entry(
                    compile.MODES, "What torch.compile optimises for. Only inductor uses it."
                ),
                "backend": entry(compile.BACKENDS, "torch.compile's backend."),
                "fullgraph": entry(
                    "BOOLEAN", "Fail if a block does not compile to one graph.", default=False
                ),
                "dynamic": entry(
                    "BOOLEAN", "One graph for all sizes, instead of one per size.", default=False
                ),
            }
        }

    def apply(
        self, model: Any, mode: str, backend: str, fullgraph: bool, dynamic: bool
    ) -> tuple[Any]:
        host.check_model(model)
        return (compile.compile_blocks(model, mode, backend, fullgraph, dynamic),)
