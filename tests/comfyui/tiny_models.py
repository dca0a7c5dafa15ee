"""Tiny random models of the families, with conditions and latents, inside a real ComfyUI.

ComfyUI's own loader builds a model from its weights where it reads every size from them; the
others are built from their class. All weights are seeded, so every build of a name is equal.
"""

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache
from types import SimpleNamespace
from typing import Any

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.supported_models
import torch
from torch import nn

torch.set_num_threads(1)

CPU = torch.device("cpu")
DIM = 128  # one attention head, the narrowest that ComfyUI's detection allows
TEXT_TOKENS = 6
Conds = list[list[Any]]

_FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 24,
    "context_in_dim": 32, "hidden_size": DIM, "mlp_ratio": 4.0, "num_heads": 1, "depth": 2,
    "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
_CHROMA = {
    **{k: v for k, v in _FLUX.items() if k != "guidance_embed"},
    "image_model": "chroma", "in_channels": 64, "out_channels": 64, "vec_in_dim": None,
    "in_dim": 64, "out_dim": DIM, "hidden_dim": 32, "n_layers": 1,
}  # fmt: skip
_HUNYUAN = {
    **_FLUX,
    "image_model": "hunyuan_video", "vec_in_dim": 768, "theta": 256, "patch_size": [1, 2, 2],
    "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None,
    "meanflow_sum": False,
}  # fmt: skip
_HUNYUAN15 = {
    **_HUNYUAN,
    "in_channels": 65, "out_channels": 32, "vec_in_dim": None, "patch_size": [1, 1, 1],
    "guidance_embed": False, "byt5": True, "use_cond_type_embedding": True,
    "vision_in_dim": 1152, "meanflow_sum": True,
}  # fmt: skip
_WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "patch_size": (1, 2, 2), "dim": DIM,
    "ffn_dim": 2 * DIM, "num_heads": 1, "in_dim": 16, "out_dim": 16, "freq_dim": 256,
    "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
}  # fmt: skip
_QWEN = {
    "image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 3,
    "attention_head_dim": DIM, "num_attention_heads": 1, "joint_attention_dim": 32,
}  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """A tiny random model, and what it takes to sample it.

    Attributes:
        name: Name in `TINY`.
        config: Name of its class in `comfy.supported_models`.
        network: Class name of its diffusion model.
        lists: Names of its block lists.
        shape: Shape of its latent.
        text: Channels of its text embedding.
        pooled: Channels of the pooled one, 0 without.
        sizes: What its network is built with.
        extra: Kind of further conditions: "references", "image", "vace", "byt5" or "".
        depth: Name of the size that is the number of blocks.
        loads: Whether ComfyUI's loader builds it from its weights alone.
    """

    name: str
    config: str
    network: str
    lists: tuple[str, ...]
    shape: tuple[int, ...]
    text: int
    pooled: int
    sizes: dict[str, Any] = field(repr=False)
    extra: str = ""
    depth: str = "depth"
    loads: bool = False

    def build(self, depth: int | None = None, **sizes: Any) -> Any:
        """A new ModelPatcher, in float32 on the CPU.

        Args:
            depth: Number of (double) blocks, if not the usual.
            sizes: Other sizes of the network.
        """
        changed = {**self.sizes, **sizes}
        if depth is not None:
            changed[self.depth] = depth
        if not (self.loads and not sizes):
            return self._from_class(changed)
        weights = {k: v.clone() for k, v in _weights(self.name, changed[self.depth]).items()}
        patcher = comfy.sd.load_diffusion_model_state_dict(
            weights, model_options={"dtype": torch.float32}
        )
        assert class_of(patcher) == self.network, class_of(patcher)
        return patcher

    def conds(self, _patcher: Any = None, tokens: int = TEXT_TOKENS) -> tuple[Conds, Conds]:
        """Positive and negative conditioning; `tokens` is the negative's length."""
        shared = self._shared_extras()
        return self._cond(1, TEXT_TOKENS, shared), self._cond(2, tokens, shared)

    def latent(self) -> torch.Tensor:
        """An empty latent."""
        return torch.zeros(self.shape)

    def blocks(self, patcher: Any) -> list[nn.Module]:
        """Every block of a model, in order."""
        network = patcher.model.diffusion_model
        return [block for name in self.lists for block in getattr(network, name)]

    def _from_class(self, sizes: dict[str, Any]) -> Any:
        config = getattr(comfy.supported_models, self.config)(dict(sizes))
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "", device=CPU)
        _randomize(model.diffusion_model, self.name)
        return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)

    def _cond(self, seed: int, tokens: int, shared: dict[str, Any]) -> Conds:
        values = torch.Generator().manual_seed(seed)
        text = torch.randn(1, tokens, self.text, generator=values)
        options = dict(shared)
        if self.pooled:
            options["pooled_output"] = torch.randn(1, self.pooled, generator=values)
        return [[text, options]]

    def _shared_extras(self) -> dict[str, Any]:
        values = torch.Generator().manual_seed(7)

        def noise(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=values)

        batch, channels, *_ = self.shape
        if self.extra == "references":
            return {"reference_latents": [noise(batch, channels, 4, 8)]}
        if self.extra == "image":
            seen = SimpleNamespace(penultimate_hidden_states=noise(1, 5, 1280))
            mask = torch.ones(1, 1, *self.shape[2:])
            mask[:, :, :1] = 0
            latent = noise(*self.shape)
            return {
                "clip_vision_output": seen, "concat_latent_image": latent, "concat_mask": mask
            }  # fmt: skip
        if self.extra == "vace":
            frames = noise(batch, 32, *self.shape[2:])
            mask = torch.ones(batch, 64, *self.shape[2:])
            return {"vace_frames": [frames], "vace_mask": [mask], "vace_strength": [0.7]}
        if self.extra == "byt5":
            seen = SimpleNamespace(last_hidden_state=noise(1, 5, 1152))
            return {"conditioning_byt5small": noise(1, 4, 1472), "clip_vision_output": seen}
        return {}


def class_of(patcher: Any) -> str:
    """Class name of a model's network."""
    return type(patcher.model.diffusion_model).__name__


@cache
def _weights(name: str, depth: int) -> dict[str, torch.Tensor]:
    tiny = TINY[name]
    network = tiny._from_class({**tiny.sizes, tiny.depth: depth}).model.diffusion_model
    return {key: value.detach().clone() for key, value in network.state_dict().items()}


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


def _known(module: str, params: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """The sizes that this version of a model has."""
    kind = getattr(importlib.import_module(f"comfy.ldm.{module}.model"), params)
    names = {"image_model", *(each.name for each in fields(kind))}
    return {name: value for name, value in sizes.items() if name in names}


def _has(config: str) -> bool:
    return hasattr(comfy.supported_models, config)


def _flux_reads_its_size() -> bool:
    """Whether this version reads FLUX's width from the weights; older ones take it for 3072."""
    from comfy import model_detection

    weights = {
        "double_blocks.0.img_attn.norm.key_norm.scale": torch.empty(DIM),
        "img_in.weight": torch.empty(DIM, 64),
        "vector_in.in_layer.weight": torch.empty(DIM, 24),
        "txt_in.weight": torch.empty(DIM, 32),
    }
    return model_detection.detect_unet_config(weights, "").get("num_heads") == 1


_DOUBLE_SINGLE = ("double_blocks", "single_blocks")
_IMAGE, _VIDEO = (1, 16, 8, 8), (1, 16, 2, 8, 8)
_READS = _flux_reads_its_size()


def _wan(name: str, config: str, shape: tuple[int, ...] = _VIDEO, **changes: Any) -> Tiny:
    extra = changes.pop("extra", "")
    vace = extra == "vace"
    lists = ("blocks", "vace_blocks") if vace else ("blocks",)
    network = "VaceWanModel" if vace else "WanModel"
    sizes = {**_WAN, "num_layers": 4 if vace else 3, **changes}
    return Tiny(name, config, network, lists, shape, 4096, 0, sizes, extra, "num_layers", True)


def _all() -> Iterator[Tiny]:
    flux = _known("flux", "FluxParams", _FLUX)
    chroma = _known("chroma", "ChromaParams", _CHROMA)
    hunyuan = _known("hunyuan_video", "HunyuanVideoParams", _HUNYUAN)
    yield Tiny("flux", "Flux", "Flux", _DOUBLE_SINGLE, _IMAGE, 32, 24, flux, loads=_READS)
    yield Tiny(
        "flux_kontext", "Flux", "Flux", _DOUBLE_SINGLE, _IMAGE, 32, 24, flux, "references",
        loads=_READS,
    )  # fmt: skip
    yield Tiny("chroma", "Chroma", "Chroma", _DOUBLE_SINGLE, _IMAGE, 32, 8, chroma)
    yield Tiny(
        "hunyuan_video", "HunyuanVideo", "HunyuanVideo", _DOUBLE_SINGLE, _VIDEO, 32, 768,
        hunyuan, loads=True,
    )  # fmt: skip
    if _has("HunyuanVideo15"):
        yield Tiny(
            "hunyuan_video1.5", "HunyuanVideo15", "HunyuanVideo", _DOUBLE_SINGLE,
            (1, 32, 2, 4, 4), 32, 8,
            _known("hunyuan_video", "HunyuanVideoParams", _HUNYUAN15), "byt5", loads=True,
        )  # fmt: skip
    yield _wan("wan_t2v", "WAN21_T2V")
    yield _wan("wan_i2v", "WAN21_I2V", model_type="i2v", in_dim=36, extra="image")
    yield _wan(
        "wan_vace", "WAN21_Vace", model_type="vace", extra="vace", vace_layers=2, vace_in_dim=96
    )
    yield _wan("wan_ti2v", "WAN22_T2V", (1, 48, 2, 8, 8), in_dim=48, out_dim=48)
    # Wan 2.2's 14B for images: the channels of I2V, but no image embedder.
    yield _wan("wan22_i2v", "WAN21_T2V", in_dim=36, extra="image")
    yield Tiny(
        "qwen_image", "QwenImage", "QwenImageTransformer2DModel", ("transformer_blocks",),
        (1, 16, 1, 8, 8), 32, 0, _QWEN, depth="num_layers",
    )  # fmt: skip


TINY = {tiny.name: tiny for tiny in _all()}


def sample(
    patcher: Any,
    tiny: Tiny,
    steps: int = 6,
    sampler: str = "euler",
    scheduler: str = "simple",
    cfg: float = 3.0,
    seed: int = 1,
    denoise: float = 1.0,
    **options: Any,
) -> torch.Tensor:
    """Samples as the KSampler node does; `options` go to `comfy.sample.sample`."""
    positive, negative = options.pop("conds", None) or tiny.conds(patcher)
    latent = options.pop("latent", None)
    latent = tiny.latent() if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample(
        patcher, noise, steps, cfg, sampler, scheduler, positive, negative, latent,
        denoise=denoise, disable_pbar=True, seed=seed, **options,
    )  # fmt: skip


def sample_at(
    patcher: Any,
    tiny: Tiny,
    sigmas: torch.Tensor,
    sampler: Any = "euler",
    cfg: float = 3.0,
    seed: int = 1,
    **options: Any,
) -> torch.Tensor:
    """Samples at given σ, as the SamplerCustom node does."""
    positive, negative = options.pop("conds", None) or tiny.conds(patcher)
    latent = options.pop("latent", None)
    latent = tiny.latent() if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed)
    if isinstance(sampler, str):
        sampler = comfy.samplers.sampler_object(sampler)
    return comfy.sample.sample_custom(
        patcher, noise, cfg, sampler, sigmas, positive, negative, latent, disable_pbar=True,
        seed=seed, **options,
    )  # fmt: skip


@dataclass
class Counted:
    """One evaluation as the blocks saw it.

    Attributes:
        sigma: Its noise level.
        calls: For each model call which conditions its rows are of (0 the positive one, 1 the
            negative one), and how many blocks ran.
    """

    sigma: float
    calls: list[tuple[tuple[int, ...], int]] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        return sum(blocks for _, blocks in self.calls)

    def of(self, kind: int) -> int:
        """Blocks that ran on rows of one kind."""
        return sum(blocks for kinds, blocks in self.calls if kind in kinds)


@dataclass
class Counts:
    """What `count_blocks` has counted."""

    evaluations: list[Counted] = field(default_factory=list)

    def __str__(self) -> str:
        """As a `Schedule` is written: # with blocks, . without."""
        return "".join("#" if each.blocks else "." for each in self.evaluations)

    @property
    def computed(self) -> int:
        return str(self).count("#")

    @property
    def skipped(self) -> int:
        return str(self).count(".")


@contextmanager
def count_blocks(patcher: Any, tiny: Tiny) -> Iterator[Counts]:
    """Counts the calls of blocks in the samplings of a ModelPatcher, an evaluation."""
    counts, key = Counts(), "count_blocks"

    def begin(executor: Any, *args: Any, **kwargs: Any) -> Any:
        counts.evaluations.append(Counted(float(args[1].flatten()[0])))
        return executor(*args, **kwargs)

    def call(executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = args[5] if len(args) > 5 else kwargs.get("transformer_options", {})
        before = _ran[0]
        output = executor(*args, **kwargs)
        kinds = tuple(options.get("cond_or_uncond", ()))
        counts.evaluations[-1].calls.append((kinds, _ran[0] - before))
        return output

    _ran = [0]

    def ran(*_: Any) -> None:
        _ran[0] += 1

    handles = [block.register_forward_pre_hook(ran) for block in tiny.blocks(patcher)]
    patcher.add_wrapper_with_key("predict_noise", key, begin)
    patcher.add_wrapper_with_key("apply_model", key, call)
    try:
        yield counts
    finally:
        for kind in ("predict_noise", "apply_model"):
            patcher.remove_wrappers_with_key(kind, key)
        for handle in handles:
            handle.remove()
