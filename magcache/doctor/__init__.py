"""`magcache doctor`: tests MagCache on every model family of a user's ComfyUI.

`installation`, `session`, `findings`, `advice` and `render` run in the command's Python and do not
import ComfyUI. `inside`, `families` and `conflicts` run in a child process with ComfyUI's Python.
"""
