"""The small trained models that demo, tests and benches run on; the core never imports them.

`image` loads the emoji model, `video` the one that makes clips; both need diffusers. `keywords`
finds their files and reads their prompts.
"""
