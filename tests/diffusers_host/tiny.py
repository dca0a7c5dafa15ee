"""Real diffusers pipelines around tiny random transformers, one per model family.

Text encoders are left out: `Tiny.inputs` passes seeded embeddings instead. A VAE or an image
encoder is built only where the pipeline cannot run without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import diffusers as dfs
import torch
import transformers as tfs
from diffusers import DiffusionPipeline
from torch import Tensor, nn

Size = tuple[int, int]
Inputs = dict[str, Any]

SIZE: Size = (64, 64)
HEADS, HEAD_DIM, ROPE_DIMS = 2, 16, (4, 6, 6)
TEXT_DIM = POOLED_DIM = IMAGE_DIM = 8
TEXT_TOKENS = 8
CFG_SCALE = 3.0


@dataclass(frozen=True)
class Tiny:
    """One model family on a tiny scale.

    `build()` makes an equal pipeline each time. `inputs(pipe, *, steps=10, size=SIZE, batch=1,
    cfg=True)` makes the keyword arguments of one run; `size` is (height, width) in pixels,
    multiples of 16. The video families also take `frames`, framepack `sections` and
    `sampling_type`. `blocks(transformer)` lists every block in the order in which they run.
    `calls_per_evaluation[cfg]` is how often the pipeline calls a transformer for one scheduler
    step. A pipeline refuses more than `max_batch` samples.
    """

    name: str
    build: Callable[[], DiffusionPipeline]
    inputs: Callable[..., Inputs]
    blocks: Callable[[nn.Module], list[nn.Module]]
    calls_per_evaluation: Mapping[bool, int]
    max_batch: int | None = None


def experts(pipe: DiffusionPipeline) -> list[nn.Module]:
    """The pipeline's transformers: two for Wan 2.2, else one."""
    both = (pipe.transformer, getattr(pipe, "transformer_2", None))
    return [expert for expert in both if expert is not None]


def run(pipe: DiffusionPipeline, **inputs: Any) -> Tensor:
    """The final latents of one run; for FramePack those of all its sections."""
    latents = pipe(**inputs)[0]
    return latents[-1] if isinstance(latents, list) else latents


@contextmanager
def watch_calls(pipe: DiffusionPipeline, see: Callable[[nn.Module], None]) -> Iterator[None]:
    """Call `see(transformer)` before each call of one of the pipeline's transformers."""
    hooks = [model.register_forward_pre_hook(lambda m, _: see(m)) for model in experts(pipe)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# Schedulers

SCHEDULERS = ("euler", "unipc", "heun", "dpm++")

_SIGMAS = "the pipeline passes `sigmas`, which this scheduler's `set_timesteps` does not take"
_OWN_SIGMAS = (
    *("flux_kontext", "chroma", "qwen_image"),
    *("hunyuan_video", "hunyuan_video1.5", "framepack"),
)

# (family, scheduler): why that pair cannot run. FLUX omits `sigmas` for UniPC and DPM++.
UNSUPPORTED: dict[tuple[str, str], str] = {
    ("flux", "heun"): _SIGMAS,
    **{(name, solver): _SIGMAS for name in _OWN_SIGMAS for solver in ("heun", "dpm++")},
}


def with_scheduler(pipe: DiffusionPipeline, name: str) -> DiffusionPipeline:
    """Give `pipe` the scheduler `name`, at the shift of the one it has; returns `pipe`."""
    old = pipe.scheduler.config
    shift = old.get("flow_shift", old.get("shift", 1.0))
    pipe.scheduler = _scheduler(name, shift, dynamic=old.get("use_dynamic_shifting", False))
    return pipe


def step_sigma(scheduler: dfs.SchedulerMixin) -> float:
    """The sigma of the evaluation under way; `step_index` is None until the first `step`."""
    index = scheduler.step_index
    return float(scheduler.sigmas[(scheduler.begin_index or 0) if index is None else index])


def _scheduler(name: str, shift: float, *, dynamic: bool = False) -> dfs.SchedulerMixin:
    euler = {"shift": shift, "use_dynamic_shifting": dynamic}
    flow = {
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": shift,
        "use_dynamic_shifting": dynamic,
    }
    makers: dict[str, Callable[[], dfs.SchedulerMixin]] = {
        "euler": lambda: dfs.FlowMatchEulerDiscreteScheduler(**euler),
        "unipc": lambda: dfs.UniPCMultistepScheduler(**flow),
        "heun": lambda: dfs.FlowMatchHeunDiscreteScheduler(shift=shift),
        "dpm++": lambda: dfs.DPMSolverMultistepScheduler(**flow),
    }
    return makers[name]()


# Inputs


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _image(batch: int, size: Size) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(9))


def _text(
    batch: int,
    *,
    cfg: bool,
    tokens: int = TEXT_TOKENS,
    negative_tokens: int | None = None,
    pooled: bool = False,
    mask: str = "",
) -> Inputs:
    """Embeddings of the prompt and, with `cfg`, of a negative one whose mask is shorter."""
    signs = [("", 1, tokens, tokens - 1)]
    if cfg:
        signs.append(("negative_", 3, negative_tokens or tokens, tokens - 2))
    inputs: Inputs = {}
    for sign, seed, count, valid in signs:
        inputs[f"{sign}prompt_embeds"] = _noise(seed, batch, count, TEXT_DIM)
        if pooled:
            inputs[f"{sign}pooled_prompt_embeds"] = _noise(seed + 1, batch, POOLED_DIM)
        if mask:
            inputs[sign + mask] = (torch.arange(count) < valid).expand(batch, -1)
    return inputs


def _nothing(_pipe: DiffusionPipeline, _shared: Inputs, _size: Size) -> Inputs:
    return {}


def _inputs(
    scale: str | None = None,
    *,
    frames: int | None = None,
    more: Callable[..., Inputs] = _nothing,
    **text: Any,
) -> Callable[..., Inputs]:
    """`Tiny.inputs` of a family: `text` is for `_text`, `more` adds what only that family takes."""

    def inputs(
        pipe: DiffusionPipeline,
        *,
        steps: int = 10,
        size: Size = SIZE,
        batch: int = 1,
        cfg: bool = True,
        frames: int | None = frames,
        **options: Any,
    ) -> Inputs:
        shared = _text(batch, cfg=cfg, **text) | {
            "num_inference_steps": steps,
            "height": size[0],
            "width": size[1],
            "generator": torch.Generator().manual_seed(0),
            "output_type": "latent",
        }
        if scale is not None:
            shared[scale] = CFG_SCALE if cfg else 1.0
        if frames is not None:
            shared["num_frames"] = frames
        return shared | more(pipe, shared, size, **options)

    return inputs


# Building


def _build(factory: Callable[[], DiffusionPipeline]) -> Callable[[], DiffusionPipeline]:
    def build() -> DiffusionPipeline:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipe = factory()
        for component in pipe.components.values():
            if isinstance(component, nn.Module):
                component.eval().requires_grad_(False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return build


def _blocks(*lists: str) -> Callable[[nn.Module], list[nn.Module]]:
    return lambda transformer: [block for name in lists for block in getattr(transformer, name)]


_NO_TEXT = {"text_encoder": None, "tokenizer": None}
_NO_TEXT_2 = {**_NO_TEXT, "text_encoder_2": None, "tokenizer_2": None}
_HEADS = {"num_attention_heads": HEADS, "attention_head_dim": HEAD_DIM}
_VISION = {
    "hidden_size": IMAGE_DIM,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
_VISION_SIZE = {"height": 16, "width": 16}


# FLUX, FLUX Kontext, Chroma, Qwen-Image

_IMAGE_MODEL = {
    **_HEADS,
    "in_channels": 16,
    "joint_attention_dim": TEXT_DIM,
    "axes_dims_rope": ROPE_DIMS,
}
_FLUX_MODEL = {**_IMAGE_MODEL, "num_layers": 2, "num_single_layers": 3}


def _flux(
    cls: type[DiffusionPipeline] = dfs.FluxPipeline, vae: nn.Module | None = None
) -> DiffusionPipeline:
    transformer = dfs.FluxTransformer2DModel(
        **_FLUX_MODEL, pooled_projection_dim=POOLED_DIM, guidance_embeds=True
    )
    scheduler = _scheduler("euler", 3.0, dynamic=True)
    return cls(**_NO_TEXT_2, scheduler=scheduler, vae=vae, transformer=transformer)


def _flux_kontext() -> DiffusionPipeline:
    vae = dfs.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4,
        latent_channels=4,
        norm_num_groups=1,
        shift_factor=0.0,
    )
    return _flux(dfs.FluxKontextPipeline, vae)


def _chroma() -> DiffusionPipeline:
    transformer = dfs.ChromaTransformer2DModel(
        **_FLUX_MODEL, approximator_hidden_dim=32, approximator_layers=1
    )
    scheduler = _scheduler("euler", 3.0)
    return dfs.ChromaPipeline(**_NO_TEXT, scheduler=scheduler, vae=None, transformer=transformer)


def _qwen_image() -> DiffusionPipeline:
    transformer = dfs.QwenImageTransformer2DModel(**_IMAGE_MODEL, out_channels=4, num_layers=3)
    scheduler = _scheduler("euler", 1.0, dynamic=True)
    return dfs.QwenImagePipeline(**_NO_TEXT, scheduler=scheduler, vae=None, transformer=transformer)


def _kontext_image(_pipe: DiffusionPipeline, _shared: Inputs, size: Size) -> Inputs:
    # Without `max_area` and `_auto_resize` the pipeline resizes both images to one megapixel.
    return {"image": _image(1, size), "max_area": size[0] * size[1], "_auto_resize": False}


def _processor(name: str) -> Any:
    """The one that needs no torchvision; before transformers 5 it has the plain name."""
    return getattr(tfs, f"{name}Pil", None) or getattr(tfs, name)


# HunyuanVideo, HunyuanVideo 1.5, FramePack

_HUNYUAN_15_MODEL = {
    **_HEADS,
    "out_channels": 4,
    "num_refiner_layers": 1,
    "text_embed_dim": TEXT_DIM,
    "rope_axes_dim": ROPE_DIMS,
}
_HUNYUAN_MODEL = {
    **_HUNYUAN_15_MODEL,
    "in_channels": 4,
    "num_layers": 2,
    "num_single_layers": 3,
    "pooled_projection_dim": POOLED_DIM,
}


def _hunyuan_video() -> DiffusionPipeline:
    transformer = dfs.HunyuanVideoTransformer3DModel(**_HUNYUAN_MODEL)
    scheduler = _scheduler("euler", 7.0)
    return dfs.HunyuanVideoPipeline(
        **_NO_TEXT_2, scheduler=scheduler, vae=None, transformer=transformer
    )


def _hunyuan_video_15() -> DiffusionPipeline:
    pipe = dfs.HunyuanVideo15Pipeline(
        **_NO_TEXT_2,
        scheduler=_scheduler("euler", 7.0),
        guider=dfs.ClassifierFreeGuidance(guidance_scale=CFG_SCALE),
        vae=dfs.AutoencoderKLHunyuanVideo15(
            latent_channels=4, block_out_channels=(8,) * 5, layers_per_block=1
        ),
        transformer=dfs.HunyuanVideo15Transformer3DModel(
            **_HUNYUAN_15_MODEL,
            in_channels=9,
            num_layers=3,
            text_embed_2_dim=TEXT_DIM,
            image_embed_dim=IMAGE_DIM,
        ),
    )
    # 729 zero image tokens join each call otherwise: the same path, three times as slow.
    pipe.vision_num_semantic_tokens = 9
    return pipe


def _framepack() -> DiffusionPipeline:
    return dfs.HunyuanVideoFramepackPipeline(
        **_NO_TEXT_2,
        scheduler=_scheduler("euler", 1.0, dynamic=True),
        vae=dfs.AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=1
        ),
        image_encoder=tfs.SiglipVisionModel(tfs.SiglipVisionConfig(**_VISION)),
        feature_extractor=_processor("SiglipImageProcessor")(size=_VISION_SIZE),
        transformer=dfs.HunyuanVideoFramepackTransformer3DModel(
            **_HUNYUAN_MODEL,
            has_image_proj=True,
            image_proj_dim=IMAGE_DIM,
            has_clean_x_embedder=True,
        ),
    )


def _glyphs(pipe: DiffusionPipeline, inputs: Inputs, _size: Size) -> Inputs:
    # Guidance belongs to the pipeline's guider and is no argument of a run.
    guided = "negative_prompt_embeds" in inputs
    (pipe.guider.enable if guided else pipe.guider.disable)()
    return {f"{name}_2": value.clone() for name, value in inputs.items() if "prompt" in name}


def _sections(
    pipe: DiffusionPipeline,
    inputs: Inputs,
    size: Size,
    *,
    sections: int = 1,
    sampling_type: str = "inverted_anti_drifting",
) -> Inputs:
    window = 2
    return {
        "image": _image(len(inputs["prompt_embeds"]), size),
        "num_frames": sections * ((window - 1) * pipe.vae_scale_factor_temporal + 1),
        "latent_window_size": window,
        "sampling_type": sampling_type,
    }


# Wan

_WAN_MODEL = {
    **_HEADS,
    "in_channels": 16,
    "text_dim": TEXT_DIM,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 4,
}
# Its attention takes all context tokens but the last 512 for the image's.
_WAN_I2V_TEXT_TOKENS = 512


def _wan(
    cls: type[DiffusionPipeline],
    transformer: nn.Module,
    vae: nn.Module | None = None,
    shift: float = 3.0,
    **parts: Any,
) -> DiffusionPipeline:
    scheduler = _scheduler("unipc", shift)
    return cls(**_NO_TEXT, scheduler=scheduler, vae=vae, transformer=transformer, **parts)


def _wan_vae() -> nn.Module:
    return dfs.AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def _wan_t2v() -> DiffusionPipeline:
    return _wan(dfs.WanPipeline, dfs.WanTransformer3DModel(**_WAN_MODEL))


def _wan_experts() -> DiffusionPipeline:
    high, low = (dfs.WanTransformer3DModel(**_WAN_MODEL) for _ in range(2))
    return _wan(dfs.WanPipeline, high, shift=5.0, transformer_2=low, boundary_ratio=0.875)


def _wan_i2v() -> DiffusionPipeline:
    model = {
        **_WAN_MODEL,
        "in_channels": 36,
        "image_dim": IMAGE_DIM,
        "added_kv_proj_dim": HEADS * HEAD_DIM,
    }
    return _wan(
        dfs.WanImageToVideoPipeline,
        dfs.WanTransformer3DModel(**model),
        _wan_vae(),
        image_encoder=tfs.CLIPVisionModel(tfs.CLIPVisionConfig(**_VISION)),
        image_processor=_processor("CLIPImageProcessor")(
            size={"shortest_edge": 16}, crop_size=_VISION_SIZE
        ),
    )


def _wan_vace() -> DiffusionPipeline:
    transformer = dfs.WanVACETransformer3DModel(**_WAN_MODEL, vace_layers=[0, 2])
    return _wan(dfs.WanVACEPipeline, transformer, _wan_vae())


def _wan_image(_pipe: DiffusionPipeline, _shared: Inputs, size: Size) -> Inputs:
    return {"image": _image(1, size)}


# The families

_DOUBLE = ("transformer_blocks",)
_DOUBLE_AND_SINGLE = ("transformer_blocks", "single_transformer_blocks")
_flux_inputs = _inputs("true_cfg_scale", pooled=True)
_wan_inputs = _inputs("guidance_scale", frames=5)


def _tiny(
    name: str,
    factory: Callable[[], DiffusionPipeline],
    inputs: Callable[..., Inputs],
    lists: tuple[str, ...],
    max_batch: int | None = None,
) -> Tiny:
    calls = {True: 2, False: 1}
    return Tiny(name, _build(factory), inputs, _blocks(*lists), calls, max_batch)


_FAMILIES = (
    _tiny("flux", _flux, _flux_inputs, _DOUBLE_AND_SINGLE),
    _tiny(
        "flux_kontext",
        _flux_kontext,
        _inputs("true_cfg_scale", pooled=True, more=_kontext_image),
        _DOUBLE_AND_SINGLE,
    ),
    _tiny(
        "chroma",
        _chroma,
        _inputs("guidance_scale", mask="prompt_attention_mask"),
        _DOUBLE_AND_SINGLE,
    ),
    _tiny(
        "qwen_image",
        _qwen_image,
        _inputs("true_cfg_scale", negative_tokens=TEXT_TOKENS - 2, mask="prompt_embeds_mask"),
        _DOUBLE,
    ),
    _tiny(
        "hunyuan_video",
        _hunyuan_video,
        _inputs("true_cfg_scale", frames=5, pooled=True, mask="prompt_attention_mask"),
        _DOUBLE_AND_SINGLE,
    ),
    _tiny(
        "hunyuan_video1.5",
        _hunyuan_video_15,
        _inputs(frames=5, mask="prompt_embeds_mask", more=_glyphs),
        _DOUBLE,
    ),
    _tiny("wan2.1_t2v", _wan_t2v, _wan_inputs, ("blocks",)),
    _tiny(
        "wan2.1_i2v",
        _wan_i2v,
        _inputs("guidance_scale", frames=5, tokens=_WAN_I2V_TEXT_TOKENS, more=_wan_image),
        ("blocks",),
    ),
    _tiny("wan2.1_vace", _wan_vace, _wan_inputs, ("vace_blocks", "blocks"), max_batch=1),
    _tiny("wan2.2_t2v", _wan_experts, _wan_inputs, ("blocks",)),
    _tiny(
        "framepack",
        _framepack,
        _inputs("true_cfg_scale", pooled=True, mask="prompt_attention_mask", more=_sections),
        _DOUBLE_AND_SINGLE,
    ),
)

TINY: dict[str, Tiny] = {tiny.name: tiny for tiny in _FAMILIES}
