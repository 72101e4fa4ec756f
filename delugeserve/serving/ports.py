"""Choose free ports, and check those that the user gives."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import random
import socket
from collections.abc import Mapping

from delugeserve.errors import PortError, UsageError
from delugeserve.system.imports import require

LOOPBACK = "127.0.0.1"
# Below Linux's default range for outgoing connections, and above the usual ports of services.
_CHOICE = range(20_000, 32_768)
_ATTEMPTS = 20
_USE_HOST = (
    f"Use --host {LOOPBACK} for this machine alone, or --host 0.0.0.0 for all its addresses."
)
#: Endpoints as messages name them.
TITLES: Mapping[str, str] = {
    "grpc": "gRPC",
    "http": "HTTP",
    "metrics": "metrics",
    "gateway": "the gateway",
}


def resolve_host(host: str, *, ipv6: bool = False) -> str:
    """Return the address to listen on, for a name or an address.

    Args:
        host: name, IPv4 or IPv6 address, with or without brackets.
        ipv6: also take an IPv6 address; of a name with both, IPv4 comes first. A tritonserver
            itself joins address and port with a colon, which rules IPv6 out.

    Raises:
        UsageError: the name has no such address.
    """
    families = (socket.AF_INET, socket.AF_INET6) if ipv6 else (socket.AF_INET,)
    for family in families:
        with contextlib.suppress(OSError, UnicodeError):
            found = socket.getaddrinfo(_without_brackets(host), None, family, socket.SOCK_STREAM)
            return str(found[0][4][0])
    kind = "address" if ipv6 else "IPv4 address"
    raise UsageError(f"'{host}' has no {kind}.", _USE_HOST)


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach the address."""
    return ipaddress.ip_address(address).is_loopback


def reachable(address: str) -> str:
    """Return the address under which clients on this machine reach what listens on ``address``."""
    return LOOPBACK if _is_wildcard(address) else address


def join(address: str, port: int) -> str:
    """Return ``address:port``, with an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def machine_addresses(address: str) -> tuple[str, ...]:
    """Return the addresses under which other machines reach what listens on ``address``.

    For 0.0.0.0 and :: these are the addresses of the network interfaces that are up.
    """
    if not _is_wildcard(address):
        return (address,)
    psutil = require("psutil", "server")
    up = psutil.net_if_stats()
    families = {socket.AF_INET, socket.AF_INET6} if ":" in address else {socket.AF_INET}
    found = [
        one.address
        for interface, addresses in psutil.net_if_addrs().items()
        if interface in up and up[interface].isup
        for one in addresses
        if one.family in families
    ]
    return tuple(
        one
        for one in found
        if "%" not in one and not (is_loopback(one) or ipaddress.ip_address(one).is_link_local)
    )


def _is_wildcard(address: str) -> bool:
    return ipaddress.ip_address(address).is_unspecified


def _without_brackets(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def claim(
    address: str, wanted: Mapping[str, int | None], others: Mapping[str, str] | None = None
) -> dict[str, int | None]:
    """Check the ports that were given, and choose one for each 0.

    The ports are free when this returns. If another process takes one before the server does, the
    server says so in its log.

    Args:
        address: IPv4 or IPv6 address to listen on.
        wanted: port by endpoint; 0 means any free port, None means off.
        others: address of the endpoints that listen on another one.

    Returns:
        The ports, with every 0 replaced.

    Raises:
        PortError: a port is in use, not allowed, or given twice.
        UsageError: this machine does not have the address.
    """
    chosen = dict(wanted)
    given: dict[int, str] = {}
    with contextlib.ExitStack() as held:
        # The given ports first, so that no 0 is answered with one of them. All stay bound until the
        # last is chosen, so that no port is chosen twice.
        for endpoint, port in sorted(wanted.items(), key=lambda item: item[1] == 0):
            if port is None:
                continue
            if port and port in given:
                both = f"{TITLES[given[port]]} and {TITLES[endpoint]}"
                raise PortError(f"Port {port} was given twice, for {both}.", port, endpoint)
            given[port] = endpoint
            where = (others or {}).get(endpoint, address)
            chosen[endpoint] = (
                _bind(held, where, port, endpoint) if port else _bind_any(held, where, endpoint)
            )
    return chosen


def in_use(endpoint: str, port: int) -> PortError:
    """Return the error for a port that another process has."""
    return PortError(f"Port {port} for {TITLES[endpoint]} is already in use.", port, endpoint)


def _bind_any(held: contextlib.ExitStack, address: str, endpoint: str) -> int:
    """Bind a random port that no outgoing connection gets before the server listens on it."""
    for candidate in random.sample(_CHOICE, _ATTEMPTS):
        with contextlib.suppress(PortError):
            return _bind(held, address, candidate, endpoint)
    return _bind(held, address, 0, endpoint)


def _bind(held: contextlib.ExitStack, address: str, port: int, endpoint: str) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
    if family == socket.AF_INET6:  # :: takes IPv4 clients too
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    # As the server does: a port that a stopped server left in TIME_WAIT counts as free.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(1)
    except PermissionError:
        problem = f"Port {port} for {TITLES[endpoint]} needs the rights of root."
        raise PortError(problem, port, endpoint) from None
    except OverflowError:
        problem = f"{port} is not a port: ports go up to 65535."
        raise PortError(problem, port, endpoint) from None
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(
                f"This machine does not have the address {address}.", _USE_HOST
            ) from None
        raise in_use(endpoint, port) from None
    number: int = listener.getsockname()[1]
    return number
