"""What a tiny random model of a family is, and how it is built inside a ComfyUI.

ComfyUI's own loader builds a model from its weights where it reads every size from them; the
others are built from their class. All weights are seeded, so every build of a name is equal.
"""

import importlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any

import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch
from torch import nn

from ...hosts.comfyui.models import class_name

CPU = torch.device("cpu")
DIM = 128  # one attention head, the narrowest that ComfyUI's detection allows
TEXT, POOLED = 32, 24  # channels, where a model does not say its own
TEXT_TOKENS = 6
IMAGE, VIDEO = (1, 16, 8, 8), (1, 16, 2, 8, 8)
Conds = list[list[Any]]
Noise = Callable[..., torch.Tensor]
"""Gives seeded noise of a shape."""
Given = Callable[[Noise, int], dict[str, Any]]
"""What conditions hold beside the text, from noise and the text's length."""

_weights: dict[tuple[str, int], dict[str, torch.Tensor]] = {}


def nothing(_noise: Noise, _tokens: int) -> dict[str, Any]:
    """Conditions that hold the text alone."""
    return {}


def _as_it_is(_network: nn.Module) -> None:
    return


@dataclass(frozen=True)
class Tiny:
    """A tiny random model, and what it takes to sample it.

    Attributes:
        name: Its name in the tables.
        config: Name of its class in `comfy.supported_models`.
        network: Class name of its diffusion model.
        lists: Names of its block lists.
        shape: Shape of its latent.
        text: Channels of its text embedding.
        pooled: Channels of the pooled one, 0 without.
        sizes: What its network is built with.
        given: What its conditions hold beside the text.
        audio: Shape of the audio latent that is sampled with the video; () without.
        depth: Name of the size that is the number of blocks.
        params: The class under `comfy.ldm` whose fields are the sizes that this version knows,
            "flux.model.FluxParams" for instance; "" where all are the same in every version.
        reads: Whether ComfyUI's loader builds it from its weights alone.
        around: A context in which its network is built.
        prepare: Called with its network once it is built.
    """

    name: str
    config: str
    network: str
    lists: tuple[str, ...]
    shape: tuple[int, ...]
    text: int
    pooled: int
    sizes: dict[str, Any] = field(repr=False)
    given: Given = nothing
    audio: tuple[int, ...] = ()
    depth: str = "depth"
    params: str = ""
    reads: Callable[[], bool] = bool
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    prepare: Callable[[nn.Module], None] = _as_it_is

    @property
    def there(self) -> bool:
        """Whether this ComfyUI has the model."""
        return hasattr(comfy.supported_models, self.config)

    @property
    def loads(self) -> bool:
        """Whether ComfyUI's loader builds it from its weights alone."""
        return self.reads()

    def build(self, depth: int | None = None, **sizes: Any) -> Any:
        """A new ModelPatcher, in float32 on the CPU.

        Args:
            depth: Number of (double) blocks, if not the usual.
            sizes: Other sizes of the network.
        """
        changed = {**self._known_sizes(), **sizes}
        if depth is not None:
            changed[self.depth] = depth
        with self.around():
            loads = self.loads and not sizes
            patcher = self._loaded(changed) if loads else self._from_class(changed)
        self.prepare(patcher.model.diffusion_model)
        return patcher

    def conds(self, _patcher: Any = None, tokens: int = TEXT_TOKENS) -> tuple[Conds, Conds]:
        """Positive and negative conditioning; `tokens` is the negative's length."""
        return self._cond(1, TEXT_TOKENS), self._cond(2, tokens)

    def latent(self) -> Any:
        """An empty latent; a nested one where audio is sampled too."""
        video = torch.zeros(self.shape)
        if not self.audio:
            return video
        nested = importlib.import_module("comfy.nested_tensor").NestedTensor
        return nested([video, torch.zeros(self.audio)])

    def blocks(self, patcher: Any) -> list[nn.Module]:
        """Every block of a model, in order."""
        network = patcher.model.diffusion_model
        return [block for name in self.lists for block in getattr(network, name)]

    def _known_sizes(self) -> dict[str, Any]:
        """The sizes that this version of the model has."""
        if not self.params:
            return self.sizes
        module, _, params = self.params.rpartition(".")
        kind = getattr(importlib.import_module(f"comfy.ldm.{module}"), params)
        names = {"image_model", *(each.name for each in fields(kind))}
        return {name: value for name, value in self.sizes.items() if name in names}

    def _from_class(self, sizes: dict[str, Any]) -> Any:
        config = getattr(comfy.supported_models, self.config)(dict(sizes))
        kept = {name: size for name, size in sizes.items() if name in config.unet_config}
        config.unet_config.update(kept)  # some classes set their own
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "", device=CPU)
        _randomize(model.diffusion_model, self.name)
        return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)

    def _loaded(self, sizes: dict[str, Any]) -> Any:
        key = self.name, sizes[self.depth]
        if key not in _weights:
            _weights[key] = self._from_class(sizes).model.diffusion_model.state_dict()
        weights = {name: value.clone() for name, value in _weights[key].items()}
        patcher = comfy.sd.load_diffusion_model_state_dict(
            weights, model_options={"dtype": torch.float32}
        )
        if patcher is None or class_name(patcher) != self.network:
            raise RuntimeError(f"ComfyUI does not know the weights of a {self.network}")
        return patcher

    def _cond(self, seed: int, tokens: int) -> Conds:
        noise = _noise(seed)
        text = noise(1, tokens, self.text)
        options = self.given(_noise(7), tokens)
        if self.pooled:
            options["pooled_output"] = noise(1, self.pooled)
        return [[text, options]]


def _noise(seed: int) -> Noise:
    values = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=values)


def _randomize(network: nn.Module, name: str) -> None:
    """Gives every weight a value that keeps activations near 1; ComfyUI leaves them unset."""
    values = torch.Generator().manual_seed(sum(map(ord, name)))
    norms = ("norm", "query_norm", "key_norm", "scale")
    with torch.no_grad():
        for key, weight in network.named_parameters():
            random = torch.randn(weight.shape, generator=values)
            if weight.ndim > 1 and not key.endswith(("modulation", "emb_pos")):
                weight.copy_(random / math.sqrt(weight[0].numel()))
            elif weight.ndim == 1 and key.endswith(("weight", *norms)):
                weight.copy_(1 + 0.1 * random)
            else:
                weight.copy_(0.1 * random)
