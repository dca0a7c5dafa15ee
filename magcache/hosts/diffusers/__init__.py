"""diffusers as a host: `apply` and `remove`."""

from .apply import Applied, apply, remove

__all__ = ["Applied", "apply", "remove"]
