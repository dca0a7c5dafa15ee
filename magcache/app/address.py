"""The address of the app, and the host names it answers to. Imports quickly."""

import errno
import ipaddress
import socket
from collections.abc import Set
from urllib.parse import urlsplit


def check_address(address: str, port: int) -> None:
    """Checks, before anything is loaded, that the app can be served at an address.

    Raises:
        ValueError: It cannot be served; the message says why, and what to do.
    """
    try:
        family, *_, place = _places(address, port)[0]
        socket.create_server(place[:2], family=family).close()
    except socket.gaierror:
        raise ValueError(
            f"there is no address {address!r}: give --listen an address of this computer"
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            why = "this computer has no such address: choose another with --listen"
        elif error.errno == errno.EADDRINUSE:
            why = "it is in use: choose another with --port"
        else:
            why = f"{error.strerror}: choose another with --port or --listen"
        raise ValueError(f"cannot serve on {address}, port {port}: {why}") from None


def is_local(address: str) -> bool:
    """Whether only programs on this computer can reach an address."""
    return all(ipaddress.ip_address(place[4][0]).is_loopback for place in _places(address, 0))


def own_names(address: str) -> frozenset[str]:
    """The host names under which visitors may reach an app that is served on an address."""
    names = {"localhost", address.lower()}
    if not is_local(address):
        own = socket.gethostname().lower()
        names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
    return frozenset(names)


def is_known(host: str, names: Set[str]) -> bool:
    """Whether a Host header is one of the names, or an IP address.

    A web page can point its own name at this computer (DNS rebinding), but not an IP address. So
    any IP address is safe.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
    except ValueError:
        return host.rpartition(":")[0].lower() in names or host.lower() in names
    return True


def _places(address: str, port: int) -> list[tuple]:
    try:
        return socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:  # not a valid host name
        raise socket.gaierror from None
