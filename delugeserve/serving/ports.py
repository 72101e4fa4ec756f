"""Choose free ports, and check those that the user gives."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Mapping

from delugeserve.errors import PortError, UsageError

LOOPBACK = "127.0.0.1"
#: Endpoints as messages name them.
TITLES: Mapping[str, str] = {"grpc": "gRPC", "http": "HTTP", "metrics": "metrics"}


def resolve_host(host: str) -> str:
    """Return the IPv4 address to listen on, for a name or an address.

    The server joins address and port with a colon, which rules IPv6 out.

    Raises:
        UsageError: the name has no IPv4 address.
    """
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):
        raise UsageError(
            f"'{host}' has no IPv4 address.",
            f"Use --host {LOOPBACK} for this machine alone, or --host 0.0.0.0 for all its "
            "addresses.",
        ) from None


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach the address."""
    return address.startswith("127.")


def reachable(address: str) -> str:
    """Return the address under which clients on this machine reach what listens on ``address``."""
    return LOOPBACK if address == "0.0.0.0" else address  # noqa: S104


def claim(address: str, wanted: Mapping[str, int | None]) -> dict[str, int | None]:
    """Check the ports that were given, and choose one for each 0.

    The ports are free when this returns. If another process takes one before the server does, the
    server says so in its log.

    Args:
        address: IPv4 address to listen on.
        wanted: port by endpoint; 0 means any free port, None means off.

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
            chosen[endpoint] = _bind(held, address, port, endpoint)
    return chosen


def _bind(held: contextlib.ExitStack, address: str, port: int, endpoint: str) -> int:
    listener = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
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
                f"This machine does not have the address {address}.",
                f"Use --host {LOOPBACK} for this machine alone, or --host 0.0.0.0 for all its "
                "addresses.",
            ) from None
        problem = f"Port {port} for {TITLES[endpoint]} is already in use."
        raise PortError(problem, port, endpoint) from None
    number: int = listener.getsockname()[1]
    return number
