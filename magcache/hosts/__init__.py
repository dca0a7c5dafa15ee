"""What ties the core to a host program. Hosts import the core, never the other way round."""


def families_of(network: str) -> set[str]:
    """Names of the families that a class of networks is of, in any host; none if it is unknown."""
    from .comfyui.models import MODELS

    if found := {row.family.name for row in MODELS if row.network == network and row.family}:
        return found
    from .diffusers.models import FAMILIES  # its package needs diffusers

    return {FAMILIES[network].name} if network in FAMILIES else set()
