"""A tiny FramePack pipeline with random weights, for tests: it samples on a CPU in seconds.

Every component has the class of the real one, so it can be saved and loaded like a real pipeline.
It draws noise.
"""

from typing import Any

SIZE = 64  # pixels on a side, about
_CHANNELS = 4  # of the latent; the real model has 16
_TEXT = 16  # channels of the text and image encoders
_ENCODER: dict[str, Any] = {
    "hidden_size": _TEXT,
    "intermediate_size": 32,
    "num_attention_heads": 2,
}
_TRANSFORMER: dict[str, Any] = {
    "in_channels": _CHANNELS,
    "out_channels": _CHANNELS,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "num_single_layers": 4,
    "num_refiner_layers": 1,
    "text_embed_dim": _TEXT,
    "pooled_projection_dim": _TEXT,
    "rope_axes_dim": (4, 6, 6),
    "has_image_proj": True,
    "image_proj_dim": _TEXT,
    "has_clean_x_embedder": True,
}
_VAE: dict[str, Any] = {
    "latent_channels": _CHANNELS,
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 1,
}


def build() -> Any:
    """A new `HunyuanVideoFramepackPipeline`, the same each time."""
    import diffusers as dfs
    import torch
    import transformers as tfs

    tokenizer = _tokenizer()
    reader: dict[str, Any] = {**_ENCODER, "vocab_size": len(tokenizer)}
    reader |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    vision = tfs.SiglipVisionConfig(**_ENCODER, num_hidden_layers=1, image_size=32, patch_size=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = dfs.HunyuanVideoFramepackPipeline(
            text_encoder=tfs.LlamaModel(tfs.LlamaConfig(**reader, num_hidden_layers=3)),
            tokenizer=tokenizer,
            text_encoder_2=tfs.CLIPTextModel(tfs.CLIPTextConfig(**reader, num_hidden_layers=1)),
            tokenizer_2=tokenizer,
            image_encoder=tfs.SiglipVisionModel(vision),
            feature_extractor=tfs.SiglipImageProcessor(size={"height": 32, "width": 32}),
            vae=dfs.AutoencoderKLHunyuanVideo(**_VAE),
            scheduler=dfs.FlowMatchEulerDiscreteScheduler(shift=7.0),
            transformer=dfs.HunyuanVideoFramepackTransformer3DModel(**_TRANSFORMER),
        )
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def _tokenizer() -> Any:
    """One token per byte, but one per word of the pipeline's own prompt template."""
    import tokenizers
    from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video_framepack as pipeline
    from transformers import PreTrainedTokenizerFast

    text = pipeline.DEFAULT_PROMPT_TEMPLATE["template"]
    own = tokenizers.Tokenizer(tokenizers.models.BPE())
    own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    own.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=own, pad_token="<pad>", eos_token="<end>")
