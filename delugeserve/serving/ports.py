"""Choosing free ports, and saying plainly when a port is taken."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

from delugeserve.errors import PortError, UsageError

LOOPBACK = "127.0.0.1"


def resolve_host(host: str) -> str:
    """The IPv4 address to listen on, for a name or an address.

    The server takes an address and a port glued together with a colon, so IPv6 does not go in.

    Raises:
        UsageError: the name has no IPv4 address.
    """
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):
        raise UsageError(
            f"'{host}' has no IPv4 address.",
            f"Give an address of this machine, such as {LOOPBACK}, or 0.0.0.0 for all of them.",
        ) from None


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address."""
    return address.startswith("127.")


def reachable(address: str) -> str:
    """The address a client on this machine should use for what listens on ``address``."""
    return LOOPBACK if address == "0.0.0.0" else address  # noqa: S104


def claim(address: str, wanted: Mapping[str, int | None]) -> dict[str, int | None]:
    """Check the ports that were asked for, and choose one for each 0.

    The ports are free when this returns. Another process may still take one before the server
    does; the server then says so itself.

    Args:
        address: IPv4 address to listen on.
        wanted: port by endpoint; 0 means any free port, None means off.

    Returns:
        The ports, with every 0 replaced.

    Raises:
        PortError: one is taken, or not allowed, or asked for twice.
        UsageError: the address is not one of this machine.
    """
    chosen = dict(wanted)
    given: dict[int, str] = {}
    with contextlib.ExitStack() as held:
        # The given ones first, so that no 0 is answered with one of them. All stay bound until the
        # last is chosen, so that no port is chosen twice.
        for endpoint, port in sorted(wanted.items(), key=lambda item: item[1] == 0):
            if port is None:
                continue
            if port and port in given:
                raise PortError(
                    f"Port {port} was asked for twice, for {given[port]} and for {endpoint}.",
                    f"Give another with --{endpoint}-port; 0 picks a free one.",
                )
            given[port] = endpoint
            chosen[endpoint] = _bind(held, address, port, endpoint)
    return chosen


def _bind(held: contextlib.ExitStack, address: str, port: int, endpoint: str) -> int:
    remedy = f"Give another with --{endpoint}-port; 0 picks a free one."
    listener = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    # As the server does: a port that a stopped server left in TIME_WAIT counts as free.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(1)
    except PermissionError:
        raise PortError(f"Port {port} needs more privileges than you have.", remedy) from None
    except OverflowError:
        raise PortError(f"{port} is not a port; they go up to 65535.", remedy) from None
    except OSError as error:
        if error.errno == 99:  # EADDRNOTAVAIL
            raise UsageError(
                f"'{address}' is not an address of this machine.",
                f"Use {LOOPBACK}, or 0.0.0.0 for all its addresses.",
            ) from None
        raise PortError(
            f"Port {port}, wanted for {endpoint}, is taken by another process.", remedy
        ) from None
    number: int = listener.getsockname()[1]
    return number
