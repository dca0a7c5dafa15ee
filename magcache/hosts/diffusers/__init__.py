"""diffusers as a host: `apply` and `remove`, and what a pipeline's models are."""

from .apply import apply, remove
from .asked import notebook_of
from .experts import models_of
from .session import Session

__all__ = ["Session", "apply", "models_of", "notebook_of", "remove"]
