"""The trained models that the emoji node does not offer, as ModelPatchers."""

from typing import Any

import torch
from comfy import model_base, model_management, model_patcher, supported_models, utils

from magcache.emoji import keywords
from magcache.hosts.comfyui.nodes.emoji import _flux

DEPTHS = {"transformer_depth": [0, 0, 1, 1, 1, 1], "transformer_depth_output": [0] * 3 + [1] * 6}


def flux(name: str) -> Any:
    """emoji or emoji-turbo, loaded as the node loads emoji."""
    return _flux(keywords.find_folder(name) / keywords.WEIGHTS[name])


def turbo() -> Any:
    return flux("emoji-turbo")


def unet() -> Any:
    """emoji-unet under ComfyUI's names. Its loader knows SDXL by its size alone, so not that."""
    path = keywords.find_folder("emoji-unet") / keywords.WEIGHTS["emoji-unet"]
    stored = utils.load_torch_file(str(path))
    sizes = _sizes_of(stored)
    names = utils.unet_to_diffusers(sizes)
    weights = {names[name]: weight for name, weight in stored.items()}
    config = supported_models.SDXL(sizes)
    config.unet_config["num_head_channels"] = 32  # SDXL's own has 64 and overrides `sizes`
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(weights, "")
    missing, unexpected = model.diffusion_model.load_state_dict(weights, strict=False)
    assert not missing and not unexpected
    return model_patcher.ModelPatcher(
        model, model_management.get_torch_device(), model_management.unet_offload_device()
    )


def _sizes_of(stored: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": stored["conv_in.weight"].shape[0],
        "num_res_blocks": [2] * 3,
        "channel_mult": [1] * 3,
        "transformer_depth_middle": 1,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": True,
        "context_dim": 128,
        "num_classes": "sequential",
        "adm_in_channels": stored["add_embedding.linear_1.weight"].shape[1],
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "legacy": False,
        **DEPTHS,
    }


def stable_diffusion(prediction: str) -> Any:
    """A tiny Stable Diffusion 1.5 or, with "V_PREDICTION", 2 of random weights."""
    kind = supported_models.SD15 if prediction == "EPS" else supported_models.SD20
    sizes = {
        **{"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32},
        **{"num_res_blocks": [1, 1], "channel_mult": [1, 2], "context_dim": 16},
        **{"transformer_depth": [1, 1], "transformer_depth_output": [1] * 4},
        **{"transformer_depth_middle": 1, "use_spatial_transformer": True},
        **{"use_linear_in_transformer": False, "use_temporal_attention": False, "legacy": False},
    }
    config = kind(sizes)
    config.unet_config.update(num_heads=-1, num_head_channels=8)
    config.set_inference_dtype(torch.float32, None)
    config.model_type = lambda *_: model_base.ModelType[prediction]
    torch.manual_seed(0)
    model = config.get_model({}, "")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model_patcher.ModelPatcher(
        model, model_management.get_torch_device(), model_management.unet_offload_device()
    )
