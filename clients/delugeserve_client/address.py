"""Addresses of servers."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from delugeserve_client.errors import AddressError

Protocol: TypeAlias = Literal["grpc", "http"]

_DEFAULT_PORTS: Mapping[str, int] = {"grpc": 8001, "http": 8000}
_SCHEMES: Mapping[str, tuple[Protocol, bool]] = {
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
    "http": ("http", False),
    "https": ("http", True),
}
_FORMS = (
    "Use localhost:8001 for gRPC or http://localhost:8000 for HTTP; with TLS, grpcs:// or https://."
)


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        host: ``host:port``.
        protocol: the protocol it speaks there.
        secure: whether it speaks it over TLS.
    """

    host: str
    protocol: Protocol
    secure: bool = False

    @property
    def has_default_port(self) -> bool:
        """Whether the port is Triton's default for the protocol."""
        return self.host.endswith(f":{_DEFAULT_PORTS[self.protocol]}")

    def __str__(self) -> str:
        if self.protocol == "grpc" and not self.secure:
            return self.host
        return f"{self.protocol}{'s' if self.secure else ''}://{self.host}"


def parse_address(url: str, protocol: str | None = None) -> Address:
    """Parse a server's address.

    Args:
        url: ``localhost:8001``, ``grpc://localhost:8001`` or ``http://localhost:8000``; over TLS
            ``grpcs://`` or ``https://``. Without a port, Triton's default port of the protocol.
        protocol: ``grpc`` or ``http``; by default the URL's scheme, or gRPC without one.

    Raises:
        AddressError: the URL or the protocol is not of this form, or they contradict each other.
    """
    scheme, separator, host = url.strip().rpartition("://")
    scheme = scheme.lower()
    host = host.rstrip("/")
    if separator and scheme not in _SCHEMES:
        raise AddressError(f"{url} has the unknown scheme '{scheme}'.", _FORMS, url=url)
    spoken, secure = _SCHEMES[scheme] if separator else (None, False)
    if separator and protocol not in (None, spoken):
        raise AddressError(
            f"{url} contradicts the protocol '{protocol}'.",
            f"Leave out either '{scheme}://' or the protocol.",
            url=url,
        )
    protocol = protocol or spoken or "grpc"
    if protocol not in _DEFAULT_PORTS:
        raise AddressError(f"The protocol '{protocol}' is unknown.", "Use grpc or http.", url=url)
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, str(_DEFAULT_PORTS[protocol])
    if not _is_host(name):
        raise AddressError(f"'{url}' is not the address of a server.", _FORMS, url=url)
    if not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        raise AddressError(f"'{url}' does not have a valid port.", _FORMS, url=url)
    return Address(f"{name}:{port}", "http" if protocol == "http" else "grpc", secure)


def _is_host(name: str) -> bool:
    """Return whether this may be a host's name, an IPv4 address, or an IPv6 one in brackets."""
    if name.startswith("["):
        try:
            ipaddress.IPv6Address(name[1:].removesuffix("]"))
        except ValueError:
            return False
        return name.endswith("]")
    if not name.isprintable() or any(character in " /\\?#@:[]%" for character in name):
        return False
    try:
        name.encode("idna")  # as sockets do; no part is empty or too long
    except UnicodeError:
        return False
    return bool(name)
