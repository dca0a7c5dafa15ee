"""Tiny random models, built inside ComfyUI.

All weights are seeded, so every build of the same name is equal.
"""

import importlib
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from inspect import Parameter, signature
from typing import Any
from unittest.mock import patch

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from torch import nn

from ...hosts.comfyui.models import block_names
from .given import IMAGE, POOLED, TEXT, Given, Noise, filled

DIM = 128  # one attention head, the narrowest that ComfyUI's detection allows
TEXT_TOKENS = 6
_MOST = 50_000_000  # weights of a tiny model; a few models have parts of a fixed size
Conds = list[list[Any]]


@dataclass(frozen=True)
class Tiny:
    """A tiny random model, and what is needed to sample it.

    Attributes:
        name: Its name.
        config: Name of its class in `comfy.supported_models`.
        path: Path of its network's class under `comfy.ldm`, for example "flux.model.Flux".
        sizes: Arguments of its network besides those that its config class sets. Arguments that
            this version of the network does not know are dropped.
        shape: Shape of its latent.
        given: What its conditions hold besides text.
        audio: Shape of the audio latent that is sampled with the video, or ().
        types: The model types it stands for: the one that `auto` finds, then those that differ
            from it only in size.
        needs: An argument that the network must know for the model to exist.
    """

    name: str
    config: str
    path: str
    sizes: dict[str, Any] = field(repr=False)
    shape: tuple[int, ...] = IMAGE
    given: Given = field(default_factory=dict, repr=False)
    audio: tuple[int, ...] = ()
    types: tuple[str, ...] = ()
    needs: str = ""

    @property
    def network(self) -> str:
        """Class name of its network."""
        return self.path.rpartition(".")[2]

    @property
    def there(self) -> bool:
        """Whether this ComfyUI has the model."""
        has = hasattr(comfy.supported_models, self.config)
        return has and (not self.needs or self.needs in self._known_sizes())

    def build(self, depth: int | None = None, **sizes: Any) -> Any:
        """A new ModelPatcher, in float32.

        Args:
            depth: Number of (double) blocks, if not the default.
            sizes: Further arguments of the network.

        Raises:
            RuntimeError: It would not be tiny.
        """
        changed = {**self._known_sizes(), **sizes}
        if depth is not None:
            changed["depth" if "depth" in changed else "num_layers"] = depth
        weights = sum(w.numel() for w in self._model(changed, "meta").parameters())
        if weights > _MOST:
            raise RuntimeError(f"this ComfyUI cannot make it tiny: it has {weights:,} weights")
        model = self._model(changed, "cpu")
        _prepare(model.diffusion_model, self.name)
        return comfy.model_patcher.ModelPatcher(
            model,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )

    def _model(self, sizes: dict[str, Any], device: str) -> Any:
        config = getattr(comfy.supported_models, self.config)(dict(sizes))
        kept = {name: size for name, size in sizes.items() if name in config.unet_config}
        config.unet_config.update(kept)  # some classes set their own
        config.set_inference_dtype(torch.float32, None)
        with _small_adapter():
            return config.get_model({}, "", device=torch.device(device))

    def conds(self, _patcher: Any = None, tokens: int = TEXT_TOKENS) -> tuple[Conds, Conds]:
        """Positive and negative conditioning; `tokens` is the negative's length."""
        return self._cond(1, TEXT_TOKENS), self._cond(2, tokens)

    def latent(self) -> Any:
        """An empty latent, nested if audio is sampled too."""
        video = torch.zeros(self.shape)
        if not self.audio:
            return video
        nested = importlib.import_module("comfy.nested_tensor").NestedTensor
        return nested([video, torch.zeros(self.audio)])

    def blocks(self, patcher: Any) -> list[nn.Module]:
        """The blocks of a model that its row names, in order."""
        network = patcher.model.diffusion_model
        return [network.get_submodule(name) for name in block_names(network)]

    def _known_sizes(self) -> dict[str, Any]:
        """The arguments that this version of the network knows.

        FLUX and its relatives accept any, and list the known ones in a dataclass.
        """
        sizes = {**getattr(comfy.supported_models, self.config).unet_config, **self.sizes}
        module = importlib.import_module(f"comfy.ldm.{self.path.rpartition('.')[0]}")
        params = [kind for name, kind in vars(module).items() if name.endswith("Params")]
        taken = signature(getattr(module, self.network)).parameters
        if params:
            names = {"image_model", *(each.name for kind in params for each in fields(kind))}
        elif any(each.kind is Parameter.VAR_KEYWORD for each in taken.values()):
            return sizes
        else:
            names = {*taken}
        return {name: value for name, value in sizes.items() if name in names}

    def _cond(self, seed: int, tokens: int) -> Conds:
        noise = _noise(seed)
        text = noise(1, tokens, self.sizes.get("text_dim", TEXT))
        pooled = noise(1, POOLED)
        return [[text, {**filled(self.given, _noise(7), tokens), "pooled_output": pooled}]]


@contextmanager
def _small_adapter() -> Iterator[None]:
    """Makes Anima's text adapter smaller: it has a fixed size of half a gigabyte."""
    anima = sys.modules.get("comfy.ldm.anima.model")
    if anima is None:
        yield
        return
    sizes = {"source_dim": TEXT, "target_dim": TEXT, "model_dim": TEXT, "num_layers": 1}
    with patch.object(anima, "LLMAdapter", partial(anima.LLMAdapter, **sizes, num_heads=2)):
        yield


def _noise(seed: int) -> Noise:
    values = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=values)


def _prepare(network: nn.Module, name: str) -> None:
    """Initialises every weight so that activations stay near 1; ComfyUI leaves them unset."""
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
    for key, buffer in network.named_buffers():  # those that a checkpoint would hold
        if key in ("pos_embed", "rope.inv_freq"):
            buffer.copy_(torch.rand(buffer.shape, generator=values))
    encoder: Any = getattr(network, "motion_encoder", None)
    if encoder is not None:  # encoding a face of 512x512 pixels takes seconds on a CPU
        encoder.get_motion = lambda face: face.flatten(1)[:, :512]
