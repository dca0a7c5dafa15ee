"""`magcache doctor`: MagCache tried on every model family of somebody's ComfyUI.

`installation`, `session`, `findings`, `advice` and `render` run in the Python of the command and
import no ComfyUI. `inside`, `families` and `conflicts` run in a child process, in ComfyUI's own.
"""
