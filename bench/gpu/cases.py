"""The models, with random weights created on their device. Nothing is downloaded."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel, WanTransformer3DModel
from diffusers.hooks import apply_group_offloading
from torch import Tensor, nn

Config = dict[str, Any]
Timed = Callable[[Callable[[], Any]], Any]
"""Makes one call of the model and returns its output."""


@dataclass(frozen=True)
class Case:
    """A model at one size.

    Attributes:
        name: Its name on the page.
        preset: Published curve and settings.
        build: Creates the transformer.
        latent: Shape of the latent.
        conditions: Shapes of the other inputs, by argument name.
        shift: The scheduler's shift.
        steps: Euler steps of a whole sampling; 0 measures single calls only.
        calls: Number of evaluations to compute, and to skip, for timing single calls.
        guidance: CFG scale; 1 samples one branch.
        time_scale: The model's timestep at σ = 1.
        storages: Whether to measure every storage of residuals, or only the default.
        exact: Whether a sampling with threshold 0 must give the plain result.
        prepare: "compile" compiles the blocks, "offload" streams them from host memory.
    """

    name: str
    preset: str
    build: Callable[[], nn.Module]
    latent: tuple[int, ...]
    conditions: dict[str, tuple[int, ...]]
    shift: float
    steps: int
    calls: int
    guidance: float = 1.0
    time_scale: float = 1.0
    storages: bool = False
    exact: bool = True
    prepare: str = ""


def flux(tiny: bool, prepare: str = "") -> Case:
    """FLUX.1-dev at 1024x1024: 4096 image tokens and 512 text tokens."""
    size = {"num_layers": 2, "num_single_layers": 4, "num_attention_heads": 2} if tiny else {}
    text, pooled, side, tokens = (64, 32, 8, 16) if tiny else (4096, 768, 64, 512)
    config: Config = {"joint_attention_dim": text, "pooled_projection_dim": pooled, **size}
    how = {"": "", "compile": ", blocks compiled", "offload": ", blocks in host memory"}[prepare]
    return Case(
        name=f"FLUX.1-dev, {16 * side}x{16 * side}{how}",
        preset="flux",
        build=lambda: FluxTransformer2DModel(**config, guidance_embeds=True),
        latent=(1, side * side, 64),
        conditions={
            "encoder_hidden_states": (1, tokens, text),
            "pooled_projections": (1, pooled),
            "img_ids": (side * side, 3),
            "txt_ids": (tokens, 3),
            "guidance": (1,),
        },
        shift=math.exp(1.15),  # FLUX's own shift at 4096 tokens
        steps=28,
        calls=6,
        storages=not prepare,
        prepare=prepare,
    )


def wan(tiny: bool, frames: int, steps: int, guidance: float) -> Case:
    """Wan 2.1 14B at 832x480: 1560 tokens for the first and every fourth frame."""
    size = {"num_attention_heads": 2, "num_layers": 4, "ffn_dim": 256} if tiny else {}
    text, tokens, height, width = (64, 16, 8, 8) if tiny else (4096, 512, 60, 104)
    config: Config = {"num_layers": 40, "ffn_dim": 13824, "text_dim": text, **size}
    branches = "with CFG" if guidance != 1 else "one branch"
    return Case(
        name=f"Wan 2.1 14B, {8 * width}x{8 * height}, {frames} frames, {branches}",
        preset="wan2.1_t2v_14B",
        build=lambda: WanTransformer3DModel(**config),
        latent=(1, 16, 1 + (frames - 1) // 4, height, width),
        conditions={"encoder_hidden_states": (1, tokens, text)},
        shift=5.0,
        steps=steps,
        calls=3 if steps else 2,
        storages=not steps,
        exact=tiny,  # tested on FLUX; here it would take most of a minute
        guidance=guidance,
        time_scale=1000.0,
    )


CASES: dict[str, Callable[[bool], Case]] = {
    "flux": flux,
    "wan": lambda tiny: wan(tiny, frames=33, steps=16, guidance=5.0),
    "flux-compile": lambda tiny: flux(tiny, "compile"),
    "wan-81": lambda tiny: wan(tiny, frames=81, steps=0, guidance=1.0),
    "flux-offload": lambda tiny: flux(tiny, "offload"),
}
"""The cases by the name that `--cases` takes, the most important ones first."""


class Subject:
    """The model of a case, its inputs, and the loop that samples it.

    Attributes:
        parameters, weights: Number of parameters, and their size in bytes.
    """

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype) -> None:
        self.case, self.device, self.dtype = case, device, dtype
        self.scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=case.shift)
        self.model: Any = random_model(case.build, device, dtype)
        self.parameters = sum(weight.numel() for weight in self.model.parameters())
        self.weights = sum(weight.nbytes for weight in self.model.parameters())
        self.latents = torch.randn(case.latent, device=device, dtype=dtype)
        self.inputs = [self._inputs() for _ in range(1 if case.guidance == 1 else 2)]
        if case.prepare == "compile":
            self.model.compile_repeated_blocks(fullgraph=True)
        elif case.prepare == "offload":
            kind: Config = {"offload_type": "block_level", "num_blocks_per_group": 1}
            streams = device.type == "cuda"
            apply_group_offloading(self.model, device, use_stream=streams, **kind)

    def _inputs(self) -> dict[str, Tensor]:
        conditions = self.case.conditions.items()
        settings: Config = {"device": self.device, "dtype": self.dtype}
        made = {name: torch.randn(shape, **settings) for name, shape in conditions}
        if "img_ids" in made:  # row and column of each token
            side = math.isqrt(len(made["img_ids"]))
            place = torch.arange(side * side, device=self.device)
            ids = torch.stack([0 * place, place // side, place % side], 1)
            made["img_ids"] = ids.to(self.dtype)
            made["txt_ids"].zero_()
        return made

    @torch.no_grad()
    def sample(self, steps: int, timed: Timed) -> Tensor:
        """Samples from noise with Euler's method; `timed` makes each call of the model."""
        sigmas = [1 - step / steps for step in range(steps)]
        self.scheduler.set_timesteps(sigmas=sigmas, device=self.device)
        self.scheduler.set_begin_index(0)
        latents, guidance = self.latents, self.case.guidance
        for t in self.scheduler.timesteps:
            timestep = (t / 1000 * self.case.time_scale).expand(1)
            step: Config = {"hidden_states": latents, "timestep": timestep, "return_dict": False}
            calls = [partial(self.model, **inputs, **step) for inputs in self.inputs]
            outputs = [timed(call)[0] for call in calls]
            velocity = outputs[-1] + guidance * (outputs[0] - outputs[-1])
            latents = self.scheduler.step(velocity, t, latents, return_dict=False)[0]
        return latents


def random_model(
    build: Callable[[], nn.Module], device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """A model created on its device; norm weights are 1, everything else is from N(0, 0.02²)."""
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = build().eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(usual)
    for name, weight in model.named_parameters():
        is_norm = weight.ndim == 1 and "norm" in name and name.endswith("weight")
        weight.fill_(1) if is_norm else weight.normal_(0, 0.02)
    return model
