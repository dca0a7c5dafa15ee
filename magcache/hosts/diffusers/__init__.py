"""diffusers as a host: `apply` and `remove`."""

from magcache.hosts.diffusers.apply import Applied, apply, remove

__all__ = ["Applied", "apply", "remove"]
