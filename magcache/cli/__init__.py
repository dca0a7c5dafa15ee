"""The command `magcache`: a file a subcommand."""

from .main import main

__all__ = ["main"]
