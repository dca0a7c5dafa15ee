"""The U-Net and the distilled model: ComfyUI makes of a file what diffusers makes of it."""

from typing import Any

import comfy.sample
import torch
from trained import turbo, unet

from magcache.emoji import keywords
from tests.denoised import PROMPT, SIGMA, STEP, stored


def embeds_of(name: str, *prompts: str) -> torch.Tensor:
    return keywords.read(keywords.find_folder(name)).embed(prompts)


def draw(
    model: Any, name: str, shape: tuple[int, ...], steps: int, cfg: float,
    latent: torch.Tensor | None = None, denoise: float = 1.0, sampler: str = "euler",
) -> torch.Tensor:  # fmt: skip
    """Latents of a fox face, from noise or another latent."""
    fox, empty = embeds_of(name, PROMPT, "").split(1)
    conds = [[[embeds, {"pooled_output": embeds.mean(1)}]] for embeds in (fox, empty)]
    latent = torch.zeros(shape) if latent is None else latent
    samples = comfy.sample.sample(
        model, comfy.sample.prepare_noise(latent, 1), steps, cfg, sampler, "simple", *conds,
        latent, denoise=denoise, disable_pbar=True, seed=1,
    )  # fmt: skip
    return model.get_model_object("latent_format").process_in(samples)


@torch.no_grad()
def test_the_unet_denoises_as_in_diffusers() -> None:
    model, text = unet().model, embeds_of("emoji-unet", PROMPT)
    sigma = model.model_sampling.sigma(torch.tensor([float(STEP)]))
    sizes = model.encode_adm(pooled_output=text.mean(1), width=256, height=256)
    found = model.apply_model(stored()["unet.noisy"], sigma, c_crossattn=text, y=sizes)
    torch.testing.assert_close(found, stored()["unet.denoised"], rtol=0, atol=1e-3)


@torch.no_grad()
def test_the_distilled_model_denoises_as_in_diffusers() -> None:
    model, text = turbo().model, embeds_of("emoji-turbo", PROMPT)
    pooled, sigma = text.mean(1), torch.tensor([SIGMA])
    found = model.apply_model(stored()["turbo.noisy"], sigma, c_crossattn=text, y=pooled)
    torch.testing.assert_close(found, stored()["turbo.denoised"], rtol=0, atol=1e-3)


def test_the_unet_draws_on_white() -> None:
    latents = draw(unet(), "emoji-unet", (1, 4, 32, 32), 20, 5.0)
    # its alpha and then its colours, as models/emoji-unet/emoji.json says
    alpha = latents[0, 3] / 2 + 0.5
    corners = [alpha[row, column] for row in (0, -1) for column in (0, -1)]
    assert max(corners) < 0.5 < alpha[12:20, 12:20].mean()


def test_the_distilled_model_draws_on_white_in_four_steps() -> None:
    latents = draw(turbo(), "emoji-turbo", (1, 16, 16, 16), 4, 1.0)
    picture = torch.nn.functional.pixel_shuffle(latents[0, :12], 2) / 2 + 0.5
    assert picture[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean() > 0.9
    assert picture.std() > 0.1
    assert torch.diff(picture, dim=2).abs().mean() < 0.15, "noise would give 1/3"
