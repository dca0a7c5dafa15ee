"""Runs ComfyUI's own caches on the small models, in ComfyUI's process.

`bench.quality.comfyhost` starts it with ComfyUI's Python. It answers JSON requests line by line;
images go through a file. `MARK` distinguishes answers from ComfyUI's own output.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from magcache.emoji import keywords

from .condition import Condition, Setting
from .counting import cost_of, counted, one_thread

MARK = "@@bench "
TESTS = Path(__file__).parents[2] / "tests" / "comfyui"  # has what loads the U-Net
_MEAN, _STD = (0.75, 0.6, 0.45), (0.45, 0.5, 0.65)  # of the U-Net's colours, as its emoji.json says


def start_comfyui() -> None:
    """Makes the checkout at $COMFYUI_PATH importable, and sets it to the CPU."""
    sys.path[:0] = [str(TESTS), str(Path(os.environ["COMFYUI_PATH"]).expanduser())]
    # Attention as on a GPU: ComfyUI's default on a CPU reads the free memory at each call.
    arguments, sys.argv = sys.argv, [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.sd

    sys.argv = arguments


def shifted(steps: int, shift: float) -> torch.Tensor:
    """The σ that diffusers uses, with the final 0."""
    even = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
    return torch.cat([shift * even / (1 + (shift - 1) * even), even.new_zeros(1)]).float()


class Emoji:
    """The emoji model in ComfyUI."""

    name = "emoji"
    lists: tuple[str, ...] = ("double_blocks", "single_blocks")
    noise: tuple[int, ...] = (16, 16, 16)

    def __init__(self, condition: Condition) -> None:
        self._condition = condition
        self._words = keywords.read(keywords.find_folder(self.name))
        self._model = self._loaded()

    def prompts(self, split: str) -> list[str]:
        """Its fixed sets of prompts."""
        return self._words.prompts(split)

    def cached(self, way: str, setting: Setting) -> Any:
        """The model with a cache on it."""
        if way == "uncached":
            return self._model.clone()
        if way == "forecast":
            return _forecast(self._model, setting)
        from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

        node: Any = {"EasyCache": EasyCacheNode, "LazyCache": LazyCacheNode}[way]
        return node.execute(_with_input_copied(self._model), **setting, verbose=False).result[0]

    def sample(
        self,
        model: Any,
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int | None = None,
        sampler: str | None = None,
        cfg: float | None = None,
    ) -> np.ndarray:
        """Frames (N, frames, 32, 32, 3) in [0, 1], from the same noise as in diffusers.

        Steps, sampler and CFG scale are those of the condition if not given.
        """
        import comfy.sample
        import comfy.samplers

        c = self._condition
        noise = torch.cat(
            [torch.randn(1, *self.noise, generator=torch.manual_seed(seed)) for seed in seeds]
        )
        sampled = comfy.sample.sample_custom(
            model, noise, c.cfg if cfg is None else cfg,
            comfy.samplers.sampler_object(sampler or c.sampler), self._levels(steps or c.steps),
            self._conds(prompts), self._conds([""] * len(prompts)),
            torch.zeros_like(noise), disable_pbar=True, seed=0,
        )  # fmt: skip
        latents = model.get_model_object("latent_format").process_in(sampled)
        images = self._decoded(latents).movedim(-3, -1).clamp(0, 1).numpy()
        return images if images.ndim == 5 else images[:, None]

    def _loaded(self) -> Any:
        from comfy import model_sampling
        from trained import flux

        class Sampling(model_sampling.ModelSamplingFlux, model_sampling.CONST):
            pass

        model = flux(self.name)
        sampling = Sampling(model.model.model_config)
        sampling.set_parameters(shift=math.log(self._condition.shift or 1.0))
        model.add_object_patch("model_sampling", sampling)
        return model

    def _levels(self, steps: int) -> torch.Tensor:
        return shifted(steps, self._condition.shift or 1.0)

    def _conds(self, prompts: Sequence[str]) -> list[Any]:
        embedded = self._words.embed(prompts)
        return [[embedded, {"pooled_output": embedded.mean(1)}]]

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """RGB (N, [frames,] 3, 32, 32)."""
        frames = latents.transpose(1, 2) if latents.ndim == 5 else latents
        return torch.nn.functional.pixel_shuffle(frames[..., :12, :, :], 2) / 2 + 0.5


class Turbo(Emoji):
    """The emoji model, distilled for few steps."""

    name = "emoji-turbo"


class Video(Emoji):
    """The video model."""

    name = "emoji-video"
    lists: tuple[str, ...] = ("blocks",)
    noise: tuple[int, ...] = (16, 8, 16, 16)

    def _loaded(self) -> Any:
        from comfy import sd
        from comfy_extras.nodes_model_advanced import ModelSamplingSD3

        path = keywords.find_folder(self.name) / keywords.WEIGHTS[self.name]
        model = sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})
        return ModelSamplingSD3().patch(model, self._condition.shift or 1.0)[0]

    def _conds(self, prompts: Sequence[str]) -> list[Any]:
        return [[self._words.embed(prompts, keywords.WAN_WIDTH), {}]]


class UNet(Emoji):
    """The U-Net, at ComfyUI's noise levels for SDXL."""

    name = "emoji-unet"
    lists: tuple[str, ...] = ("input_blocks", "middle_block", "output_blocks")
    noise: tuple[int, ...] = (4, 32, 32)

    def _loaded(self) -> Any:
        from trained import unet

        return unet()

    def _levels(self, steps: int) -> torch.Tensor:
        import comfy.samplers

        levels = self._model.get_model_object("model_sampling")
        return comfy.samplers.calculate_sigmas(levels, "normal", steps)

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (_MEAN, _STD))
        return (latents[:, :3] * std + mean) / 2 + 0.5


MODELS: Mapping[str, Callable[[Condition], Emoji]] = {
    m.name: m for m in (Emoji, Turbo, Video, UNet)
}


def _forecast(model: Any, setting: Setting) -> Any:
    from magcache.decide import Target
    from magcache.hosts.comfyui.settings import Settings
    from magcache.hosts.comfyui.wrappers import install

    asked = Target(**setting)
    return install(model, Settings(asked=asked, label="forecast", at_output=True))


def _with_input_copied(model: Any) -> Any:
    """Copies the model's input, because EasyCache adds to it in place.

    In float32 that input is the sampler's own tensor, so the run would be spoilt. In half
    precision, which most people use, it is a copy; the rival should not suffer from that here.
    """
    from comfy.patcher_extension import WrappersMP

    def copied(executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return executor(x.clone(), *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "bench", copied)
    return model


def answer(model: Emoji, condition: Condition, asked: dict[str, Any]) -> dict[str, Any]:
    """Answers one request; the images are written to its "path"."""
    prompts, seeds, batch = asked["prompts"], asked["seeds"], asked["batch"]
    cached = model.cached(asked["way"], asked["setting"])
    frames = []
    with counted(cached.model.diffusion_model, model.lists) as work:
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            frames.append(model.sample(cached, prompts[part], seeds[part]))
    np.save(asked["path"], np.concatenate(frames))
    return asdict(cost_of(work, len(prompts), condition.branches, asked["full"]))


def main() -> None:
    """Answers requests for the model and the condition given on the command line."""
    condition = Condition(**json.loads(sys.argv[2]))
    start_comfyui()
    one_thread()
    model = MODELS[sys.argv[1]](condition)
    for line in sys.stdin:
        print(MARK + json.dumps(answer(model, condition, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
