"""Runs a model with or without its blocks, and caches the residuals.

The stack computes or skips a call through the model's own forward. The cache holds the residuals,
and is the only place that knows which ones there are.
"""

from .cache import ResidualCache, Store
from .families import Family, family_of, find_stack, plain_module
from .output import ModelOutput, OutputCall, Path, Place, signal_names, signals_of, velocities_of
from .predict import combine
from .stack import BlockStack, Call, Mend, Residual, StackMismatch, StackNotFound

__all__ = [
    "BlockStack",
    "Call",
    "Family",
    "Mend",
    "ModelOutput",
    "OutputCall",
    "Path",
    "Place",
    "Residual",
    "ResidualCache",
    "StackMismatch",
    "StackNotFound",
    "Store",
    "combine",
    "family_of",
    "find_stack",
    "plain_module",
    "signal_names",
    "signals_of",
    "velocities_of",
]
