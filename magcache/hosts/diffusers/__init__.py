"""diffusers as a host: `apply` and `remove`."""

from .applied import Applied
from .apply import apply, remove

__all__ = ["Applied", "apply", "remove"]
