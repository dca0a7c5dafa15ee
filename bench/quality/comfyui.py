"""ComfyUI's own caches on the emoji model, in ComfyUI's process: answers requests line by line.

Started by `bench.quality.comfyhost` with ComfyUI's Python. A request and its answer are JSON;
images go through a file. ComfyUI's own messages on stdout are told apart by `MARK`.
"""

import base64
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .condition import Setting
from .counting import cost_of, counted, one_thread

MARK = "@@bench "
EMOJI = Path(__file__).parents[2] / "models" / "emoji"
LISTS = ("double_blocks", "single_blocks")
_SHIFT, _SCALE = 0.1159, 0.3611  # ComfyUI's latent format of FLUX, which this model does not have


def start_comfyui() -> None:
    """Makes the checkout at $COMFYUI_PATH importable, on the CPU."""
    sys.path.insert(0, str(Path(os.environ["COMFYUI_PATH"]).expanduser()))
    # Attention as on a GPU: what ComfyUI takes on a bare CPU reads the free memory at each call.
    arguments, sys.argv = sys.argv, [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.sd

    sys.argv = arguments


def shifted(steps: int, shift: float) -> torch.Tensor:
    """The σ that diffusers samples with, and the final 0."""
    even = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
    return torch.cat([shift * even / (1 + (shift - 1) * even), even.new_zeros(1)]).float()


class Model:
    """The emoji model in ComfyUI, with one shift."""

    def __init__(self, shift: float) -> None:
        import comfy.model_sampling
        import comfy.sd

        weights = str(EMOJI / "diffusion_pytorch_model.safetensors")
        self._model = comfy.sd.load_diffusion_model(weights, model_options={"dtype": torch.float32})

        class Sampling(comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.CONST):
            pass

        sampling = Sampling(self._model.model.model_config)
        sampling.set_parameters(shift=math.log(shift))
        self._model.add_object_patch("model_sampling", sampling)
        self._shift = shift
        described = json.loads((EMOJI / "emoji.json").read_text(encoding="utf-8"))
        self._words = described["vocabulary"]
        kept = described["embedding"]
        values = np.frombuffer(base64.b64decode(kept["base64"]), dtype="<f2")
        self._table = torch.from_numpy(values.reshape(kept["shape"]).astype(np.float32))

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
        steps: int,
        cfg: float,
        sampler: str = "euler",
    ) -> np.ndarray:
        """Images (N, 1, 32, 32, 3) in [0, 1], from the noise that diffusers starts with."""
        import comfy.sample
        import comfy.samplers

        noise = torch.cat(
            [torch.randn(1, 16, 16, 16, generator=torch.manual_seed(seed)) for seed in seeds]
        )
        latents = comfy.sample.sample_custom(
            model, noise, cfg, comfy.samplers.sampler_object(sampler),
            shifted(steps, self._shift), self._cond(prompts), self._cond([""] * len(prompts)),
            torch.zeros_like(noise), disable_pbar=True, seed=0,
        )  # fmt: skip
        latents = (latents - _SHIFT) * _SCALE
        images = torch.nn.functional.pixel_shuffle(latents[:, :12], 2) / 2 + 0.5
        return images.clamp(0, 1).permute(0, 2, 3, 1)[:, None].numpy()

    def _cond(self, prompts: Sequence[str]) -> list[Any]:
        indices = [[self._words.index(word) for word in prompt.split()] for prompt in prompts]
        padded = torch.tensor([words + [0] * (8 - len(words)) for words in indices])
        embedded = self._table[padded]
        return [[embedded, {"pooled_output": embedded.mean(1)}]]


def _forecast(model: Any, setting: Setting) -> Any:
    from magcache.decide import Target
    from magcache.hosts.comfyui.settings import Settings
    from magcache.hosts.comfyui.wrappers import install

    asked = Target(setting["speedup"])
    return install(model, Settings(asked=asked, label="forecast", at_output=True))


def _with_input_copied(model: Any) -> Any:
    """EasyCache adds to the model's input in place.

    In float32 that input is the sampler's own tensor, and the sampling is spoilt; in half
    precision, as most use it, it is a copy. So that the rival is not judged by that, a copy here.
    """
    from comfy.patcher_extension import WrappersMP

    def copied(executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return executor(x.clone(), *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "bench", copied)
    return model


def answer(model: Model, asked: dict[str, Any]) -> dict[str, Any]:
    """Samples what was asked for; the images are written to its "path"."""
    prompts, seeds, batch = asked["prompts"], asked["seeds"], asked["batch"]
    cached = model.cached(asked["way"], asked["setting"])
    frames, seconds, wall = [], 0.0, 0.0
    with counted(cached.model.diffusion_model, LISTS) as work:
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            began, wall_began = time.process_time(), time.perf_counter()
            frames.append(
                model.sample(cached, prompts[part], seeds[part], asked["steps"], asked["cfg"])
            )
            seconds += time.process_time() - began
            wall += time.perf_counter() - wall_began
    np.save(asked["path"], np.concatenate(frames))
    cost = cost_of(work, len(prompts), asked["branches"], seconds, wall, asked["full"])
    return asdict(cost)


def main() -> None:
    start_comfyui()
    one_thread()
    model: Model | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        model = model or Model(asked["shift"])
        print(MARK + json.dumps(answer(model, asked)), flush=True)


if __name__ == "__main__":
    main()
