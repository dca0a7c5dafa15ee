"""Connects the core to host programs. Hosts import the core, never the other way round."""

from collections.abc import Mapping
from typing import Any


def families_of(network: str) -> set[str]:
    """Names of the families of a network class in any host; empty if it is unknown."""
    from .comfyui.models import MODELS

    if found := {row.family.name for row in MODELS if row.network == network and row.family}:
        return found
    from .diffusers.models import FAMILIES  # its package needs diffusers

    return {FAMILIES[network].name} if network in FAMILIES else set()


def sampled_with(made_with: Mapping[str, Any]) -> str:
    """Sampler, steps, guidance and so on in one line, as far as they are known."""
    parts = [str(made_with["sampler"])] if made_with.get("sampler") else []
    titles = {"steps": "{:g} steps", "cfg": "CFG {:g}", "shift": "shift {:g}"}
    known = {name: made_with.get(name) for name in titles}
    parts += [titles[name].format(value) for name, value in known.items() if value is not None]
    parts += [f"latent {'x'.join(map(str, made_with['latent']))}"] if "latent" in made_with else []
    return ", ".join(parts)
