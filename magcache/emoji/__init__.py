"""The small trained models that demo, tests and benches run on.

`image` loads the emoji model, `video` the one that makes clips; `keywords` reads their prompts.
"""
