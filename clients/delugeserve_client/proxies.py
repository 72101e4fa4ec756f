"""The proxy that gRPC takes from the environment.

tritonclient's HTTP client uses no proxy. gRPC uses one even for the machine that it runs on, unless
``no_proxy`` says otherwise, so connections to loopback addresses turn it off.
"""

from __future__ import annotations

import ipaddress
import os
import urllib.parse
from dataclasses import dataclass

# As gRPC reads them: lower case only, and the first one that is set counts, even if it is empty.
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_BYPASS_VARIABLES = ("no_grpc_proxy", "no_proxy")


@dataclass(frozen=True)
class Proxy:
    """A proxy that the environment names.

    Attributes:
        url: its URL, without user name and password.
        variable: the environment variable that names it.
        bypass: the environment variable that lists the hosts which are reached without it.
    """

    url: str
    variable: str
    bypass: str

    def __str__(self) -> str:
        return f"{self.url} ({self.variable})"

    def is_bypassed(self, host: str) -> bool:
        """Return whether the environment excludes a host name or IP address from the proxy."""
        entries = os.environ.get(self.bypass, "").lower().split(",")
        return any(_matches(host.lower(), entry.strip()) for entry in entries)


def is_loopback(host: str) -> bool:
    """Return whether a host name or IP address, without a port, is this machine's loopback."""
    host = host.strip("[]").lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _ip_address(host)
    # The unspecified address connects to this machine too.
    return address is not None and (address.is_loopback or address.is_unspecified)


def proxy_of_environment() -> Proxy | None:
    """Return the proxy that gRPC uses where nothing excludes a host; None if there is none."""
    variable = _first_set(_PROXY_VARIABLES)
    url = urllib.parse.urlsplit(os.environ.get(variable, ""))
    if url.scheme != "http" or not url.hostname:  # gRPC ignores proxies of other kinds
        return None
    return Proxy(without_password(url.geturl()), variable, _first_set(_BYPASS_VARIABLES))


def find_proxy(host: str) -> Proxy | None:
    """Return the proxy that this client's gRPC requests to a host go through, or None.

    Args:
        host: name or address of a machine, with or without a port.
    """
    proxy = proxy_of_environment()
    name = urllib.parse.urlsplit(f"//{host}").hostname or host
    if proxy is None or is_loopback(name) or proxy.is_bypassed(name):
        return None
    return proxy


def without_password(url: str) -> str:
    """Return a proxy's scheme, host and port, for a message."""
    parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _first_set(variables: tuple[str, ...]) -> str:
    """Return the first variable that is set, else the last."""
    return next((name for name in variables if name in os.environ), variables[-1])


def _matches(host: str, entry: str) -> bool:
    """Return whether an entry excludes a host: ``*``, its name or domain, or a network."""
    if entry == "*" or (entry and f".{host}".endswith(f".{entry.lstrip('.')}")):
        return True
    address = _ip_address(host)
    try:
        return address is not None and address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
