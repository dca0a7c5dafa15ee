"""The small trained models for the demo, tests and benchmarks. The core never imports them.

`image` loads the emoji model, `turbo` its few-step version, `unet` an SDXL-like model and `video`
a model that makes clips; all need diffusers. `keywords` finds their files and parses prompts.
"""
