"""diffusers as a host: `apply` and `remove`."""

from .apply import apply, remove
from .session import Session

__all__ = ["Session", "apply", "remove"]
