"""The small trained models that demo, tests and benches run on; the core never imports them.

`image` loads the emoji model, `turbo` the same for few steps, `unet` one like SDXL and `video` the
one that makes clips; all need diffusers. `keywords` finds their files and reads their prompts.
"""
